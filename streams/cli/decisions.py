"""`modelwarden decisions`: what the policy made of alerts, sent or withheld."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from streams.cli.output import examples, print_json, print_rows
from streams.cli.place import Wanted, filter_options, flatten, one_by_id, place_options, read_findings

if TYPE_CHECKING:
    from pathlib import Path

    from sinks.records import Decision

_COLUMNS = {
    "time": "time (UTC)",
    "action": "action",
    "key": "key",
    "model": "model",
    "rule": "rule",
    "outcome": "outcome",
    "decision": "decision",
}


@click.group(
    "decisions",
    epilog=examples(
        "modelwarden decisions list --since 24h",
        "modelwarden decisions list --sent -o ndjson | jq -r .command.command_id",
        "modelwarden decisions show 3f2c3e10897d",
    ),
)
def command() -> None:
    """List what the policy decided, and whether a command left."""


@command.command(
    "list",
    epilog=examples(
        "modelwarden decisions list --run run/1", "modelwarden decisions list --withheld -o json"
    ),
)
@click.option("--sent/--withheld", default=None, help="Only those that sent a command, or only the others.")
@filter_options
@place_options
def list_decisions(
    *,
    sent: bool | None,
    run_dir: Path | None,
    kafka: str | None,
    settings_file: Path | None,
    output: str,
    **wanted: Any,
) -> None:
    """List decisions in order of time."""
    found = read_findings(run_dir, kafka, settings_file)
    decisions = [d for d in found.decisions if sent in {None, d.command is not None}]
    chosen = Wanted(**wanted).choose(decisions)
    print_rows(chosen if output != "table" else map(_row, chosen), _COLUMNS, output)


@command.command("show", epilog=examples("modelwarden decisions show 3f2c3e10897d --run run/1"))
@click.argument("decision_id", metavar="ID")
@place_options
def show(
    decision_id: str, *, run_dir: Path | None, kafka: str | None, settings_file: Path | None, output: str
) -> None:
    """Show one decision in full, by its id or the beginning of it."""
    found = read_findings(run_dir, kafka, settings_file)
    decision = one_by_id(list(found.decisions), "decision_id", decision_id, found.source)
    if output != "table":
        print_json(decision)
        return
    rows = [{"name": name, "value": value} for name, value in flatten(decision)]
    print_rows(rows, {"name": "field", "value": "value"}, output)


def _row(decision: Decision) -> dict[str, object]:
    from streams.keyview import utc  # noqa: PLC0415 - rich is slow to import

    return {
        "time": utc(decision.time_ms),
        "action": decision.action,
        "key": decision.key,
        "model": decision.model,
        "rule": decision.rule,
        "outcome": "sent" if decision.withheld is None else f"withheld: {decision.withheld}",
        "decision": decision.decision_id[:12],
    }
