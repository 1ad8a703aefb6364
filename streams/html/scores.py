"""Scoreboards: the tables of the terminal as HTML, and where each attack was found as a picture."""

from __future__ import annotations

from collections import defaultdict
from math import log10
from typing import TYPE_CHECKING

from rich.text import Text

from streams.html.element import Markup, join, tag
from streams.html.page import Facts, page, section
from streams.report import BUDGETS
from streams.scoreboard import tables
from streams.whatiftable import difference_tables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from streams.demo import AttackResult
    from streams.report import FileOutcome, Report
    from streams.whatif import Difference

_STYLES = {
    "red": "critical",
    "green": "good",
    "yellow": "notice",
    "bold green": "good",
    "bold red": "critical",
}
_MARKS = {"1 %": ("●", "notice"), "0.1 %": ("▲", "warning"), "critical": ("■", "critical")}
SHOWN_CHANGES = 200
_TICKS = (1, 10, 100, 1000, 10_000)


def table_html(table: Table) -> Markup:
    """Turn a table made for a terminal into HTML; numbers stay to the right."""
    right = ["n" if column.justify == "right" else None for column in table.columns]
    head = [tag("th", str(c.header), class_=kind) for c, kind in zip(table.columns, right, strict=True)]
    cells = zip(*(list(column.cells) for column in table.columns), strict=True)
    body = [
        tag("tr", [_cell(cell, kind) for cell, kind in zip(row, right, strict=True)],
            class_="total" if style.style == "bold" else None)
        for row, style in zip(cells, table.rows, strict=True)
    ]  # fmt: skip
    return tag("div", tag("table", tag("thead", tag("tr", head)), tag("tbody", body)), class_="scroll")


def _cell(cell: object, kind: str | None) -> Markup:
    style = _STYLES.get(str(cell.style)) if isinstance(cell, Text) else None
    words = cell.plain if isinstance(cell, Text) else str(cell)
    return tag("td", tag("span", words, class_=style) if style else words, class_=kind)


def evaluation_page(report: Report) -> bytes:
    """Write the report of an evaluation."""
    benign = [share for share in report.benign if share.persona is None]
    keys = sum(share.keys for share in benign if share.budget == "1 %")
    tiles = [(f"{keys:,}", "honest keys measured")]
    for budget in BUDGETS:
        alarmed = sum(share.alarmed for share in benign if share.budget == budget)
        name = budget if budget == "critical" else f"the {budget} budget"
        tiles.append((f"{alarmed:,}", f"of them alarmed at {name}"))
    attacks = [f for f in report.files if f.budget == "1 %" and f.kind != "cover"]
    if attacks:
        found = sum(file.keys_alarmed > 0 for file in attacks)
        tiles.append((f"{found:,} of {len(attacks):,}", "attack files found at the 1 % budget"))
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    half = f" on the honest keys of {report.calibrated_on} number" if report.calibrated_on else ""
    facts = Facts(
        title="Modelwarden evaluation",
        subtitle=f"Labelled traces, {report.mode}{half}. {versions}.",
        tiles=tuple(tiles),
    )
    parts = [_dots(report.files)] if attacks else []
    parts += [
        section(str(table.title or ""), "", tag("div", table_html(table), class_="card"))
        for table in tables(report)
    ]
    return page(facts, parts)


def _dots(files: Sequence[FileOutcome]) -> Markup:
    """Draw the query at which each attack was found, on a logarithmic axis."""
    grouped: dict[tuple[str, str, str], dict[str, FileOutcome]] = defaultdict(dict)
    for file in files:
        if file.kind != "cover":
            grouped[file.victim, file.kind, file.source][file.budget] = file
    end = log10(_TICKS[-1])
    ticks = [tag("span", f"{tick:,}") for tick in _TICKS]
    rows = [tag("span"), tag("p", ticks, class_="ticks")]
    for (victim, kind, source), by_budget in sorted(grouped.items()):
        marks = []
        for budget, (mark, level) in _MARKS.items():
            query = by_budget[budget].median_alarm_query if budget in by_budget else None
            if query is not None:
                at = 100 * min(log10(max(query, 1)) / end, 1)
                marks.append(
                    tag("i", mark, style=f"left:{at:.1f}%", class_=level, title=f"{level}: {query:,.0f}")
                )
        never = (
            None
            if marks
            else tag("i", "never", style="left:100%;transform:translate(-100%,-50%)", class_="critical small")
        )
        name = next(iter(by_budget.values())).attack or source
        label = join(name.replace("_", " "), tag("span", f" {victim}, {kind}", class_="muted"))
        rows += [tag("span", label, class_="name"), tag("div", marks, never, class_="track")]
    words = "Queries of a key until its alarm (median over a file's keys), logarithmic. "
    legend = join(words, *(tag("span", f"{mark} {level}  ", class_=level) for mark, level in _MARKS.values()))
    return section(
        "When attacks are found", legend, tag("div", tag("div", rows, class_="dots"), class_="card")
    )


def difference_section(difference: Difference) -> Markup:
    """Tell what would change for customers, from one policy or detection to another."""
    intro = f"Against {difference.against}, over {difference.days:,.1f} days. " + (
        "" if difference.keys else "No customer would be treated otherwise."
    )
    if len(difference.keys) > SHOWN_CHANGES:
        intro += f"The first {SHOWN_CHANGES} of {len(difference.keys):,} customers are shown."
    cards = [
        tag("div", tag("h3", str(table.title)), table_html(table), class_="card")
        for table in difference_tables(difference, SHOWN_CHANGES)
    ]
    return section("What would change", intro, join(cards))


def attacks_section(attacks: Sequence[AttackResult]) -> Markup:
    """Tell of each attack of a demonstration what it wanted, what it got, and when it was stopped."""
    from streams.demoview import attack_table  # noqa: PLC0415 - the demonstration's view is needed only here

    intro = "What each recorded attack wanted, and what it got before it was stopped."
    return section("Attacks", intro, tag("div", table_html(attack_table(tuple(attacks))), class_="card"))
