"""A difference as tables, for the terminal and for a page: both sides, the customers, and who they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from streams.whatif import Difference, KeyChange, Side, Tally

_STYLES = {
    "newly acted on": "red",
    "treated harder": "yellow",
    "treated milder": "green",
    "no longer acted on": "green",
}


def difference_tables(difference: Difference, shown_keys: int) -> Iterator[Table]:
    """Yield the tables, each with its title; only the first if nothing changes for anybody."""
    yield _sides(difference)
    if difference.keys:
        yield _changes(difference.keys[:shown_keys])
        yield _tallies("By tenant", difference.tenants)
        yield _tallies("By plan", difference.plans)
        yield _tallies("By technique", difference.techniques)


def _table(title: str, columns: Sequence[str], *, left: int) -> Table:
    """Make a table whose columns from `left` on are numbers."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        header_style="bold",
    )
    for index, heading in enumerate(columns):
        # A key reference is of use only whole.
        table.add_column(heading, justify="left" if index < left else "right", no_wrap=heading == "key")
    return table


def _sides(difference: Difference) -> Table:
    before, after = difference.before, difference.after
    table = _table("Both sides, as if enforced", ("", "before", "after", "change"), left=1)
    for what, one, other in (
        ("alerts a day", before.alerts_per_day, after.alerts_per_day),
        ("keys acted on", before.keys_acted_on, after.keys_acted_on),
        ("calls after the first action", before.calls_affected, after.calls_affected),
        ("their worth", before.cost, after.cost),
    ):
        if one is not None and other is not None:
            table.add_row(what, f"{one:,}", f"{other:,}", f"{other - one:+,.10g}")
    table.add_row("sent", _sent(before), _sent(after), "")
    table.add_row("policy", before.policy_version, after.policy_version, "")
    return table


def _sent(side: Side) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in side.decisions.items()) or "nothing"


def _changes(changes: Sequence[KeyChange]) -> Table:
    columns = ("change", "key", "model", "customer", "before", "after", "calls after")
    table = _table("Customers treated otherwise", columns, left=6)
    for change in changes:
        customer = ", ".join(filter(None, (change.tenant, change.plan)))
        what = Text(change.change, _STYLES[change.change])
        sides = change.before or "-", change.after or "-"
        table.add_row(what, change.key, change.model, customer or "-", *sides, f"{change.calls_affected:,}")
    return table


def _tallies(title: str, tallies: Sequence[Tally]) -> Table:
    table = _table(title, ("name", "newly acted on", "treated otherwise", "no longer"), left=1)
    for tally in tallies:
        counts = tally.newly_acted_on, tally.treated_otherwise, tally.no_longer_acted_on
        table.add_row(tally.name, *(f"{count:,}" for count in counts))
    return table
