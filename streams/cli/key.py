"""`modelwarden key`: what was found about an API key and why; make the reference of a raw key."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sinks.secretfile import read_key_secret
from streams.cli.output import examples, make_console, output_option, print_json
from streams.errors import ModelwardenError

if TYPE_CHECKING:
    from collections.abc import Callable

    from streams.keystory import KeyStory

DEFAULT_RUNS = Path("run")
_EXAMPLE = "k0-6adb091da716db6b850c1c3ee08315f6"


class _KeyGroup(click.Group):
    """Does not repeat what it does not know: it may be a raw key."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None:
            ctx.fail(f"No such command. Use one of: {', '.join(self.list_commands(ctx))}.")
        return super().resolve_command(ctx, args)


@click.group(
    "key",
    cls=_KeyGroup,
    epilog=examples(
        f"modelwarden key show {_EXAMPLE}",
        f"modelwarden key explain {_EXAMPLE} --run run/1",
        "modelwarden key reference --secret key-secret < raw-key.txt",
    ),
)
def command() -> None:
    """Show what was found about an API key, by its reference; a raw key is never an argument."""


def _read_reference(_ctx: click.Context, _parameter: click.Parameter, words: tuple[str, ...]) -> str:
    # Imported here: numpy, which --help need not wait for.
    from detectors.batch import parse_key_reference  # noqa: PLC0415

    try:
        (word,) = words
        parse_key_reference(word)
    except ValueError:
        raise click.BadParameter(
            "not a key reference, which is k<epoch>-<32 hex digits>. What was given is not repeated here, in "
            "case it is a raw key; `modelwarden key reference` makes a reference from one.",
            param_hint="REF",
        ) from None
    return word


def _place_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.argument("reference", nargs=-1, metavar="REF", callback=_read_reference),
        click.option("--run", "--from", "run_dir", type=click.Path(file_okay=False, path_type=Path),
                     metavar="DIR", help="A run's folder.  [default: the newest in ./run]"),
        click.option("--kafka", metavar="HOST:PORT", help="Read the topics there instead."),
        click.option("--settings", "settings_file", type=click.Path(path_type=Path),
                     envvar="MODELWARDEN_SETTINGS", help="Settings file; with --kafka, names the topics."),
        output_option,
    ):  # fmt: skip
        function = option(function)
    return function


@command.command(
    "show",
    epilog=examples(
        f"modelwarden key show {_EXAMPLE}",
        f"modelwarden key show {_EXAMPLE} --kafka 127.0.0.1:9092 -o json",
    ),
)
@_place_options
def show(output: str, **place: Any) -> None:
    """List the alerts about a key, with what was decided."""
    story = _read(**place)
    if output == "table":
        from streams.keyview import show_story  # noqa: PLC0415 - rich is slow to import

        show_story(story, make_console())
    else:
        _print(story, output)


@command.command(
    "explain",
    epilog=examples(
        f"modelwarden key explain {_EXAMPLE}",
        f"modelwarden key explain {_EXAMPLE} --run run/1 -o json | jq .alert.features",
    ),
)
@_place_options
def explain(output: str, **place: Any) -> None:
    """Explain the weightiest alert about a key: numbers, evidence, decisions, what would clear it."""
    story = _read(**place)
    if output == "table":
        from streams.keyview import show_explained  # noqa: PLC0415 - rich is slow to import

        show_explained(story, make_console())
    elif output == "json":
        print_json({"key": story.key, "alert": story.highest, "decisions": story.decisions,
                    "commands": story.commands})  # fmt: skip
    else:
        _print(story, output)


@command.command(
    "why-not",
    epilog=examples(
        f"modelwarden key why-not {_EXAMPLE}",
        f"modelwarden key why-not {_EXAMPLE} --run run/1 -o json | jq '.[0].nearest'",
    ),
)
@click.argument("reference", nargs=-1, metavar="REF", callback=_read_reference)
@click.option(
    "--run",
    "--from",
    "run_dir",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="A run's folder.  [default: the newest in ./run]",
)
@output_option  # fmt: skip
def why_not(reference: str, run_dir: Path | None, output: str) -> None:
    """Say what comes nearest to alerting a key, and what that would take."""
    # Imported here: numpy, which --help need not wait for.
    from streams.fleet import read_states  # noqa: PLC0415
    from streams.keystory import newest_run  # noqa: PLC0415

    folder = run_dir or newest_run(DEFAULT_RUNS)
    found = [summary for summary in read_states(folder).keys if summary.key == reference]
    if not found:
        raise ModelwardenError(
            f"key {reference}",
            f"{folder} keeps nothing of it: it sent nothing, or others are much more suspect",
            "Check the reference, or replay its traffic by itself",
        )
    if output != "table":
        print_json(found)
        return
    from streams.keyview import show_nearest  # noqa: PLC0415 - rich is slow to import

    show_nearest(found, make_console())


def _read(*, reference: str, run_dir: Path | None, kafka: str | None, settings_file: Path | None) -> KeyStory:
    # Imported here: numpy, and for topics kafka-python, which --help need not wait for.
    from streams.keystory import newest_run, read_run, read_topics  # noqa: PLC0415

    if kafka is None:
        return read_run(run_dir or newest_run(DEFAULT_RUNS), reference)
    if run_dir is not None:
        raise click.UsageError("Give --run or --kafka, not both.")
    from streams.bus.kafka import KafkaBus  # noqa: PLC0415
    from streams.settings import load_settings  # noqa: PLC0415

    settings = load_settings(settings_file, {**os.environ, "MODELWARDEN_KAFKA": kafka})
    bus = KafkaBus(settings.kafka, security=settings.kafka_security)
    try:
        return read_topics(bus, settings, reference)
    finally:
        bus.close()


def _print(story: KeyStory, output: str) -> None:
    if output == "json":
        print_json(story)
        return
    for kind, records in (
        ("alert", story.alerts),
        ("decision", story.decisions),
        ("command", story.commands),
    ):
        for record in records:
            print_json({kind: record})


@command.command(
    "reference",
    epilog=examples(
        "openssl rand -hex 32 > key-secret",
        "modelwarden key reference --secret key-secret        # asks, without showing what is typed",
        "modelwarden key reference --secret key-secret --env CUSTOMER_KEY -o json",
    ),
)
@click.option(
    "--secret",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE",
    help="The deployment's key secret, at least 32 bytes.",
)
@click.option(
    "--epoch",
    type=click.IntRange(0, 65_535),
    default=0,
    show_default=True,
    help="Rotation epoch of the secret.",
)
@click.option("--env", "variable", metavar="NAME", help="Take the raw key from this variable.")
@output_option  # fmt: skip
def reference(secret: Path, epoch: int, variable: str | None, output: str) -> None:
    """Make the reference that stands for a raw key, read from standard input or a variable.

    Neither the key nor the secret is an argument, and neither is ever printed.
    """
    from sinks.serving.keyref import key_reference  # noqa: PLC0415 - see show

    loaded = read_key_secret(secret)
    made = key_reference(_raw_key(variable), loaded, epoch)
    if output == "table":
        click.echo(made)
    else:
        print_json({"key": made, "epoch": epoch})


def _raw_key(variable: str | None) -> str:
    if variable is not None:
        raw, place = os.environ.get(variable, ""), f"variable {variable}"
    elif sys.stdin.isatty():
        raw, place = click.prompt("API key (not shown)", hide_input=True, err=True), "the prompt"
    else:
        raw, place = sys.stdin.readline(), "standard input"
    if not raw.strip():
        raise ModelwardenError(place, "no API key there", "Give one key, on one line")
    return str(raw).strip()
