"""The screen of `modelwarden top`: what stands against which keys, what came last, how workers do."""

from __future__ import annotations

from math import log10
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from detectors.alert import LEVELS
from streams.demoview import LEVEL_MARK, LEVEL_STYLE
from streams.keyview import share, utc
from streams.standing import key_standings

if TYPE_CHECKING:
    from rich.console import RenderableType

    from streams.findings import Findings
    from streams.standing import KeyStanding
    from streams.workerstats import WorkerStats

BAR_WIDTH = 12
_FULL_BAR = 5.0
"""-log10 of the share of honest keys at which the evidence's bar is full."""
_FEED_LINES = 8
_FRAME_LINES = 11
MIN_ROWS = 3


def frame(found: Findings, stats: WorkerStats | None, *, height: int, waiting: str = "") -> RenderableType:
    """Draw the screen.

    Parameters
    ----------
    found : Findings
    stats : WorkerStats, optional
        What the workers' metrics say; None where none answers.
    height : int
        Lines there are.
    waiting : str
        Why there is nothing yet, if something is missing.
    """
    room = max(height - _FRAME_LINES - _FEED_LINES, MIN_ROWS)
    standings = key_standings(found)
    body: RenderableType = _keys(standings[:room], len(standings))
    if not standings:
        body = Text(waiting or "No alerts: everything looks like ordinary use.", "dim")
    return Panel(
        Group(_header(found, stats), Text(""), body, Text(""), *_feed(found)),
        title=f"[bold]Modelwarden[/]  {found.source}",
        title_align="left",
        subtitle="Ctrl-C ends   modelwarden key explain REF tells why",
        subtitle_align="right",
        border_style="cyan",
        box=box.ROUNDED,
    )


def _header(found: Findings, stats: WorkerStats | None) -> Text:
    line = Text()
    if stats is not None:
        rate = "-" if stats.events_per_s is None else f"{stats.events_per_s:,.0f}"
        for what, number, style in (
            ("events/s", rate, "bold"),
            ("behind", f"{stats.lag_records:,.0f}", "yellow" if stats.lag_records > 10_000 else ""),
            ("keys", f"{stats.keys_tracked:,.0f}", ""),
            ("refused", f"{stats.rejections:,.0f}", "yellow" if stats.rejections else ""),
        ):
            line.append(f"{what} ", "dim").append(f"{number}   ", style)
    for level in reversed(LEVELS):
        count = sum(alert.level == level for alert in found.alerts)
        line.append(f"{LEVEL_MARK[level]} {level} ", LEVEL_STYLE[level]).append(f"{count:,}   ")
    line.append("commands ", "dim").append(f"{len(found.commands):,}", "bold green")
    return line


def _keys(standings: list[KeyStanding], in_all: int) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", expand=True)
    table.add_column("LEVEL", no_wrap=True)
    table.add_column("KEY", no_wrap=True, style="cyan")
    table.add_column("MODEL", no_wrap=True)
    table.add_column("CUSTOMER", no_wrap=True, ratio=1)
    table.add_column("QUERIES", justify="right", no_wrap=True)
    table.add_column("EVIDENCE", no_wrap=True)
    table.add_column("HOLDS", justify="right", no_wrap=True)
    table.add_column("IN FORCE", no_wrap=True)
    for key in standings:
        table.add_row(
            Text(f"{LEVEL_MARK[key.level]} {key.level}", LEVEL_STYLE[key.level]) if key.level else "",
            key.key[:17],
            key.model,
            ", ".join(filter(None, (key.tenant, key.plan))) or "-",
            f"{key.query_count:,}",
            _evidence(key),
            f"{100 * key.held_ratio:.0f} %",
            Text(key.in_force or "-", "bold green" if key.in_force else "dim"),
        )
    if in_all > len(standings):
        table.add_row("", Text(f"and {in_all - len(standings):,} more", "dim"))
    return table


def _evidence(key: KeyStanding) -> Text:
    full = min(-log10(max(key.key_p_value, 1e-300)) / _FULL_BAR, 1.0) * BAR_WIDTH
    style = LEVEL_STYLE[key.level] if key.level else "dim"
    return Text.assemble(
        ("█" * round(full), style), ("░" * (BAR_WIDTH - round(full)), "dim"), f" {share(key.key_p_value)}"
    )


def _feed(found: Findings) -> list[Text]:
    """Write the newest alerts and commands, oldest first."""
    lines = [
        (
            alert.time_ms,
            Text.assemble(
                (f"{utc(alert.time_ms)}  ", "dim"),
                (f"{LEVEL_MARK[alert.level]} {alert.level:<9}", LEVEL_STYLE[alert.level]),
                (f"{alert.key[:17]}  ", "cyan"),
                alert.sentence,
            ),
        )
        for alert in found.alerts[-_FEED_LINES:]
    ]
    lines += [
        (
            command.issued_ms,
            Text.assemble(
                (f"{utc(command.issued_ms)}  ", "dim"),
                (f"✔ {command.action:<9}", "bold green"),
                (f"{command.key[:17]}  ", "cyan"),
                f"until {utc(command.expires_ms)}, rule {command.rule}",
            ),
        )
        for command in sorted(found.commands, key=lambda command: command.issued_ms)[-_FEED_LINES:]
    ]
    newest = [line for _, line in sorted(lines, key=lambda pair: pair[0])][-_FEED_LINES:]
    for line in newest:
        line.no_wrap, line.overflow = True, "ellipsis"
    return newest + [Text("")] * (_FEED_LINES - len(newest))
