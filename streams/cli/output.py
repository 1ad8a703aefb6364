"""How commands show data: a table for people, JSON for programs; and the examples below a command's help."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click
import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from rich.console import Console

    Function = Callable[..., Any]

FORMATS = ("table", "json", "ndjson")
PIPED_WIDTH = 120


def output_option(function: Function) -> Function:
    """Give a command the option `-o`; it gets the choice as `output`."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(FORMATS),
        default="table",
        show_default=True,
        help="A table for people, one JSON value, or one JSON object a line.",
    )(function)


def examples(*lines: str) -> str:
    """Return an epilog that shows the lines as they are."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def make_console(*, err: bool = False) -> Console:
    """Return a console; colour only on a terminal, and room enough for a table in a pipe."""
    # Imported here: a tenth of a second, which `--help` and JSON need not pay.
    from rich.console import Console  # noqa: PLC0415

    is_terminal = (sys.stderr if err else sys.stdout).isatty()
    return Console(stderr=err, width=None if is_terminal else PIPED_WIDTH, highlight=False)


def print_json(value: Any) -> None:
    """Print a value as one line of JSON, its fields in a fixed order."""
    click.echo(msgspec.json.encode(value, order="deterministic"))


def print_rows(
    rows: Iterable[Any], columns: Mapping[str, str], output: str, *, right: tuple[str, ...] = ()
) -> None:
    """Print records in the format chosen.

    Parameters
    ----------
    rows : iterable of msgspec.Struct or mapping
        JSON gets all of their fields.
    columns : mapping of str to str
        The fields that the table shows, with their headings.
    output : str
        One of `FORMATS`.
    right : tuple of str
        Fields that are counts: aligned right, whole numbers in groups of three digits.
    """
    if output == "ndjson":
        for row in rows:
            print_json(row)
        return
    listed = list(rows)
    if output == "json":
        print_json(listed)
        return
    from rich.table import Table  # noqa: PLC0415 - see make_console

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name, heading in columns.items():
        # A key reference is of use only whole.
        table.add_column(heading.upper(), justify="right" if name in right else "left", no_wrap=name == "key")
    for row in listed:
        values = row if isinstance(row, dict) else msgspec.structs.asdict(row)
        table.add_row(*(_cell(values[name], is_count=name in right) for name in columns))
    make_console().print(table)


def _cell(value: Any, *, is_count: bool) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if is_count and isinstance(value, int):
        return f"{value:,}"
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
