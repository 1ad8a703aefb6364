"""The command line, `modelwarden NOUN ...`. A command's module is imported when it is called.

Adding a noun: put its name and one line of help into `NOUNS`, and a click command named `command` into
`streams/cli/<noun>.py`. Errors go to standard error as one line that begins with the command's own path.

Exit codes: 0 done; 1 it failed, or a check found something wrong; 2 the command was called wrongly; 70 a
defect of the program; 130 interrupted.
"""

from __future__ import annotations

import errno
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import click

from streams import __version__
from streams.bus.base import BusError
from streams.cli.output import examples
from streams.errors import ModelwardenError

EXIT_FAILED = 1
EXIT_DEFECT = 70
EXIT_INTERRUPTED = 130

NOUNS = {
    "Try it": {
        "demo": "Watch real attacks being found and stopped among real customers.",
        "simulate": "Make traffic, benign and hostile, to a topic, a file or a pipe.",
        "replay": "Run history from files or topics through detection and policy.",
        "report": "Write what a run found as one HTML page.",
        "evaluate": "Measure detection and false alarms on labelled traces.",
    },
    "Run it": {
        "warmup": "Compile the kernels, so that workers start in seconds.",
        "worker": "Detect: read events, write alerts, decisions and commands.",
        "reconcile": "See to it that commands are obeyed: send again, page.",
        "revoker": "Have revocations done by the provider's key store.",
        "sidecar": "Enforce and take events over HTTP, beside nginx or Envoy.",
        "topics": "Make the topics of a deployment, or check them.",
        "kafka": "Run one Apache Kafka node on loopback.",
        "policy": "Check, publish and roll back the policy; keep the signing keys.",
        "rules": "Test the policy's rules, and see what a change would do.",
        "references": "Merge what workers have learned of honest keys.",
        "settings": "Show the settings in force.",
        "doctor": "Check everything that a worker needs, and say what to do.",
        "metrics": "List every metric and what it tells.",
        "grafana": "Put dashboards and alert rules on a Grafana server; silence alerts.",
        "annotate": "Mark alerts, commands and policy changes on Grafana's dashboards.",
        "canary": "Attack models with a synthetic key, and see that it is caught.",
    },
    "Look closer": {
        "top": "Watch keys, alerts and commands as they come.",
        "keys": "List keys, most suspect first.",
        "key": "Show what was found about an API key, and why.",
        "alerts": "List and show alerts.",
        "campaigns": "List keys that are one attacker.",
        "decisions": "List what the policy decided; approve, reject, undo.",
        "appeals": "Put a customer's objection on record, and answer it.",
        "allowlist": "Keys that no command touches.",
        "audit": "Verify and export the chain of everything decided and done.",
        "support": "Gather what is needed to help, without secrets.",
        "completion": "Print the completion script of a shell.",
    },
}
"""Help by noun, in the order of `modelwarden --help`."""


class LazyGroup(click.Group):
    """The root: knows the nouns by name, imports one when it is used, and puts errors into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the nouns in the order of the help."""
        return [noun for nouns in NOUNS.values() for noun in nouns]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a noun's command; None if there is no such noun."""
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = import_module(f"streams.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; suggest the nearest for a misspelt one."""
        nouns = self.list_commands(ctx)
        if args[0] not in nouns:
            near = get_close_matches(args[0], nouns, n=1)
            do = f"Did you mean {near[0]}?" if near else "`modelwarden --help` lists all."
            ctx.fail(f"No such command '{args[0]}'. {do}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the nouns by what they are for, without importing them."""
        for section, nouns in NOUNS.items():
            with formatter.section(section):
                formatter.write_dl(list(nouns.items()), col_max=14)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the words of the call, from which an error tells its command."""
        ctx.meta["words"] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; print what went wrong as one line."""
        try:
            return super().invoke(ctx)
        except (ModelwardenError, BusError, OSError) as error:
            if ctx.params["debug"] or isinstance(error, BrokenPipeError):
                raise
            _fail(self._path(ctx), _explain(error), EXIT_FAILED)
        except KeyboardInterrupt:
            click.echo("\nInterrupted.", err=True)
            raise SystemExit(EXIT_INTERRUPTED) from None
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if ctx.params["debug"]:
                raise
            _fail(self._path(ctx), _confess(error), EXIT_DEFECT)

    def _path(self, ctx: click.Context) -> str:
        """Return the command that was called, without its options: `modelwarden topics check`."""
        found: click.Command = self
        path = ["modelwarden"]
        for word in ctx.meta["words"]:
            below = found.get_command(ctx, word) if isinstance(found, click.Group) else None
            if below is not None:
                found = below
                path.append(word)
        return " ".join(path)


def _explain(error: Exception) -> str:
    """Return what went wrong, on one line."""
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        place = "" if error.filename is None else f"{error.filename}: "
        return f"{place}{error.strerror}. Free some space, or write to another disk."
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}. Check the path and its permissions."
    return " ".join(str(error).split())


def _confess(error: Exception) -> str:
    # Redacted, since nobody foresaw what its text may hold; imported here, for it is rarely needed.
    from streams.logs import redact  # noqa: PLC0415

    said = " ".join(str(redact(str(error))).split())
    return (
        f"a defect of the program ({type(error).__name__}: {said}). "
        "Run `modelwarden --debug ...` with the same words, and report what it prints."
    )


def _fail(path: str, why: str, exit_code: int) -> None:
    click.echo(f"Error: {path}: {why}", err=True)
    raise SystemExit(exit_code)


@click.command(
    cls=LazyGroup,
    name="modelwarden",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        "modelwarden demo",
        "modelwarden simulate --events 20000 --to events.jsonl.gz",
        "modelwarden replay events.jsonl.gz --alerts-to run/replay",
        "modelwarden doctor",
    )
    + "\n\nExit codes: 0 done, 1 failed or a check found something wrong, 2 called wrongly, "
    "70 a defect of the program, 130 interrupted.",
)
@click.option("--debug", is_flag=True, help="On an error, print the traceback.")
@click.version_option(__version__, prog_name="modelwarden", message="%(prog)s %(version)s")
def main(*, debug: bool) -> None:
    """Find the API keys that are copying a model, in real time, and stop them."""
