"""What a person sees of a replay: its summary, a difference in customers' units, a reproduced alert."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from streams.cli.output import make_console, print_rows
from streams.cli.report import write_page
from streams.whatiftable import difference_tables

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from streams.replay import AlertedKey, Replayed
    from streams.reproduce import Reproduced
    from streams.whatif import Difference

__all__ = ["show_difference", "show_reproduced", "show_summary", "write_page"]

_ALERTED = {  # query: of the key's own, at its first alert
    "level": "level",
    "key": "key",
    "model": "model",
    "first_query": "query",
    "families": "families",
    "action": "policy would",
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
    for table in difference_tables(difference, SHOWN_CHANGES):
        console.print(table)
        console.print()
    if not difference.keys:
        console.print("No customer would be treated otherwise.", style="bold green")
    elif len(difference.keys) > SHOWN_CHANGES:
        console.print(f"{len(difference.keys) - SHOWN_CHANGES:,} more: -o json has all", style="dim")


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
