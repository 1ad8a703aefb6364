"""Every code block of the documents, as found."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(
    r"(?:<!-- (?P<note>[^>]+?) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```", re.DOTALL | re.MULTILINE
)


class Block(NamedTuple):
    """One code block."""

    page: str
    line: int
    language: str
    code: str
    note: str
    """Of a comment directly above it: how it is to be run."""


def pages() -> list[Path]:
    """Return every document."""
    return [ROOT / "README.md", *sorted((ROOT / "deploy").rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            str(page.relative_to(ROOT)),
            text[: match.start("code")].count("\n"),
            match["language"],
            match["code"],
            match["note"] or "",
        )
        for match in _BLOCK.finditer(text)
    ]
