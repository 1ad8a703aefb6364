"""What a person sees of a replay: its summary, a difference in customers' units, a reproduced alert."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from streams.cli.output import make_console, print_rows
from streams.cli.report import write_page

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rich.console import Console

    from streams.replay import AlertedKey, Replayed
    from streams.reproduce import Reproduced
    from streams.whatif import Difference, KeyChange, Side, Tally

__all__ = ["show_difference", "show_reproduced", "show_summary", "write_page"]

_ALERTED = {  # query: of the key's own, at its first alert
    "level": "level",
    "key": "key",
    "model": "model",
    "first_query": "query",
    "families": "families",
    "action": "policy would",
}
_CHANGED = {
    "change": "change",
    "key": "key",
    "model": "model",
    "customer": "customer",
    "before": "before",
    "after": "after",
    "calls_affected": "calls after",
}
_TALLIED = {
    "name": "name",
    "newly_acted_on": "newly acted on",
    "treated_otherwise": "treated otherwise",
    "no_longer_acted_on": "no longer",
}
_PARTIAL = "[bold red]PARTIAL[/]: interrupted; everything below is of what was read until then."
SHOWN_CHANGES = 40


def show_summary(summary: Replayed, folder: Path | None) -> None:
    """Print what a replay found."""
    console = make_console()
    if not summary.complete:
        console.print(_PARTIAL)
    rejected = f"{sum(summary.rejected.values()):,} rejected"
    why = f" ({_counts(summary.rejected)})" if summary.rejected else ""
    console.print(f"[bold]Events[/]     {summary.events:,} of {summary.keys:,} keys, {rejected}{why}")
    for model in summary.models_without_reference:
        console.print(f"           model {model} has no reference: learned from this traffic", style="yellow")
    alerts = _counts({level: count for level, count in summary.alerts.items() if count})
    console.print(f"[bold]Alerts[/]     {alerts or 'none'}, on {len(summary.keys_alerted):,} keys")
    console.print(
        f"[bold]Decisions[/]  {_counts(summary.decisions) or 'none'}, "
        f"by policy {summary.policy_version} in mode {summary.mode}"
    )
    commands = _counts(summary.commands) or "none"
    console.print(f"[bold]Commands[/]   {commands}; a replay sends nothing")
    for reason, count in summary.withheld.items():
        console.print(f"           {count:,} withheld: {reason}", style="dim")
    if summary.keys_alerted:
        console.print()
        print_rows(map(_alerted, summary.keys_alerted), _ALERTED, "table", right=("first_query",))
    if folder is not None:
        console.print(f"\nWritten to {folder}", style="dim")
        if summary.keys_alerted:
            console.print(
                f"Next: modelwarden key explain {summary.keys_alerted[0].key} --run {folder}", style="cyan"
            )


def _alerted(found: AlertedKey) -> dict[str, object]:
    return {
        **msgspec.structs.asdict(found),
        "families": ", ".join(found.families).replace("_", " "),
        "action": found.actions[-1] if found.actions else None,
    }


def show_difference(difference: Difference) -> None:
    """Print what would change for customers."""
    console = make_console()
    if not difference.complete:
        console.print(_PARTIAL)
    console.print(
        f"[bold]What would change[/]  against {difference.against}, over {difference.events:,} events "
        f"in {difference.days:,.1f} days; both as if enforced, nothing is sent\n"
    )
    _show_sides(difference)
    if not difference.keys:
        console.print("\nNo customer would be treated otherwise.", style="bold green")
        return
    console.print()
    print_rows(map(_changed, difference.keys[:SHOWN_CHANGES]), _CHANGED, "table", right=("calls_affected",))
    if len(difference.keys) > SHOWN_CHANGES:
        console.print(f"and {len(difference.keys) - SHOWN_CHANGES:,} more: -o json has all", style="dim")
    for what, tallies in (
        ("By tenant", difference.tenants),
        ("By plan", difference.plans),
        ("By technique", difference.techniques),
    ):
        _show_tallies(what, tallies, console)


def _show_sides(difference: Difference) -> None:
    rows: list[dict[str, str | None]] = []
    before, after = difference.before, difference.after
    for what, name in (
        ("alerts a day", "alerts_per_day"),
        ("keys acted on", "keys_acted_on"),
        ("calls after the first action", "calls_affected"),
        ("their worth", "cost"),
    ):
        one, other = getattr(before, name), getattr(after, name)
        if one is not None:
            rows.append(
                {"what": what, "before": f"{one:,}", "after": f"{other:,}", "by": f"{other - one:+,.10g}"}
            )
    rows.append({"what": "sent", "before": _sent(before), "after": _sent(after), "by": None})
    rows.append(
        {"what": "policy", "before": before.policy_version, "after": after.policy_version, "by": None}
    )
    columns = {"what": "", "before": "before", "after": "after", "by": "change"}
    print_rows(rows, columns, "table")


def _sent(side: Side) -> str:
    return _counts(side.decisions) or "nothing"


def _changed(change: KeyChange) -> dict[str, object]:
    customer = ", ".join(filter(None, (change.tenant, change.plan))) or None
    return {**msgspec.structs.asdict(change), "customer": customer}


def _show_tallies(what: str, tallies: Sequence[Tally], console: Console) -> None:
    console.print(f"\n[bold]{what}[/]")
    print_rows(tallies, _TALLIED, "table", right=tuple(_TALLIED)[1:])


def show_reproduced(result: Reproduced) -> None:
    """Print whether an alert could be made again."""
    console = make_console()
    replayed = f"from {result.events:,} events"
    if result.exact:
        console.print(f"[bold green]Reproduced exactly[/]  alert {result.alert_id}, {replayed}")
        if result.alert is not None:
            console.print(result.alert.sentence)
        if result.decision is not None:
            console.print(f"Decision: {result.decision.action}, by rule {result.decision.rule}")
        return
    console.print(f"[bold red]Not the same[/]  alert {result.alert_id}, {replayed}; these fields differ:")
    for line in result.differences:
        console.print(f"  {line}", markup=False)
    console.print(
        "Use the same references, policy and version as the run that recorded it, and all events from the "
        "beginning of the partition.",
        style="cyan",
    )


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
