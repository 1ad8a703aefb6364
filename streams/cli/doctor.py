"""`modelwarden doctor`: check everything that a worker needs."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streams.cli.output import examples, make_console, output_option, print_rows

if TYPE_CHECKING:
    from streams.doctor import Check

_MARKS = {"ok": ("✔ ok", "green"), "warn": ("▲ warn", "yellow"), "fail": ("✘ FAIL", "bold red")}


@click.command(
    "doctor",
    epilog=examples(
        "modelwarden doctor",
        "modelwarden doctor --kafka broker-1:9092,broker-2:9092",
        "modelwarden doctor -o json | jq '.[] | select(.status == \"fail\")'",
    ),
)
@click.option("--kafka", metavar="HOST:PORT", help="Bootstrap servers.  [default: from the settings]")
@click.option(
    "--settings",
    "settings_file",
    type=click.Path(path_type=Path),
    envvar="MODELWARDEN_SETTINGS",
    help="Settings file (YAML or TOML); the environment overrides it.",
)
@output_option
def command(kafka: str | None, settings_file: Path | None, output: str) -> None:
    """Check interpreter, packages, policy, keys, Kafka and topics; say what to do about each.

    Exit code 1 if a check failed. Changes nothing.
    """
    from streams.doctor import examine  # noqa: PLC0415 - heavy, and --help need not wait for it

    environ = {**os.environ, **({} if kafka is None else {"MODELWARDEN_KAFKA": kafka})}
    checks = examine(settings_file, environ)
    if output == "table":
        _show(checks)
    else:
        print_rows(checks, {}, output)
    if any(check.status == "fail" for check in checks):
        raise SystemExit(1)


def _show(checks: list[Check]) -> None:
    from rich.table import Table  # noqa: PLC0415 - see streams.cli.output
    from rich.text import Text  # noqa: PLC0415

    console = make_console()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    for check in checks:
        said = Text(check.finding)
        if check.do:
            said.append(f"\n→ {check.do}", _MARKS[check.status][1])
        table.add_row(Text(*_MARKS[check.status]), check.check, said)
    console.print(table)
    counts = Counter(check.status for check in checks)
    if counts["fail"]:
        console.print(f"\n{counts['fail']} failed, {counts['warn']} warnings", style="bold red")
    elif counts["warn"]:
        console.print(f"\nReady, with {counts['warn']} warnings", style="yellow")
    else:
        console.print("\nReady", style="bold green")
