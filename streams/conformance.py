"""The conformance table: `deploy/docs/conformance.yaml`, whose rows point at tests, and its page.

`python -m streams.conformance` writes `deploy/docs/conformance.md`; with `--check`, exit code 1 if it is old.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Literal

import msgspec

from sinks.yamlfile import read_config

FOLDER = Path(__file__).parents[1] / "deploy" / "docs"
TABLE, PAGE = FOLDER / "conformance.yaml", FOLDER / "conformance.md"
_MARKS = {"met": "met", "partly": "**partly**", "not": "**not met**"}


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One framework."""

    title: str
    pinned: str
    """The edition that is meant."""


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One requirement."""

    id: str
    source: str
    requires: str
    status: Literal["met", "partly", "not"]
    how: str
    tests: tuple[str, ...]
    """As pytest names them: file::function."""


class Conformance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole table."""

    sources: dict[str, Source]
    rows: tuple[Row, ...]


def load(path: Path = TABLE) -> Conformance:
    """Read the table. Raises FileFormatError and msgspec.ValidationError."""
    return msgspec.convert(read_config(path), Conformance)


def page() -> str:
    """Write the page."""
    table = load()
    counts = {status: sum(row.status == status for row in table.rows) for status in _MARKS}
    parts = [_INTRO.format(**counts)]
    for name, source in table.sources.items():
        parts.append(f"\n## {source.title}\n\nPinned: {source.pinned}.\n\n")
        parts.append("| requirement | asks for | status | how | tests |\n|---|---|---|---|---|\n")
        for row in table.rows:
            if row.source == name:
                tests = "<br>".join(f"`{test.split('::')[1]}`" for test in row.tests)
                what = row.id.removeprefix(f"{name}-")
                parts.append(f"| {what} | {row.requires} | {_MARKS[row.status]} | {row.how} | {tests} |\n")
    return "".join(parts)


_INTRO = """# Conformance

<!-- Written by `python -m streams.conformance` from conformance.yaml. Change that, not this page. -->

What frameworks ask of a defence against model theft, what is there, and the tests that show it:
{met} met, {partly} partly, {not} not. Our own claim, which nobody else has checked, in our own words.
The same as data: [conformance.yaml](conformance.yaml), with the file of each test.
"""


def main(arguments: list[str] | None = None) -> int:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(prog="python -m streams.conformance", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if it has drifted")
    wanted = page()
    if not parser.parse_args(arguments).check:
        PAGE.write_text(wanted, encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == wanted:
        return 0
    sys.stderr.write("deploy/docs/conformance.md has drifted. Run `python -m streams.conformance`.\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
