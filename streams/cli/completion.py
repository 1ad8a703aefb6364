"""`modelwarden completion`: the completion script of a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from streams.cli.output import examples


@click.command(
    "completion",
    epilog=examples(
        'eval "$(modelwarden completion bash)"',
        "modelwarden completion fish > ~/.config/fish/completions/modelwarden.fish",
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the script that makes SHELL complete commands, options and choices."""
    made = get_completion_class(shell)
    if made is None:
        raise click.UsageError(f"no completion for {shell}")
    click.echo(made(ctx.find_root().command, {}, "modelwarden", "_MODELWARDEN_COMPLETE").source())
