"""`modelwarden decisions`: what the policy made of alerts; what people say to that."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from streams.cli.output import examples, print_json, print_rows
from streams.cli.place import Wanted, filter_options, flatten, one_by_id, place_options, read_findings
from streams.cli.sign import act_on, find_decision, open_desk, read_settings, signing_options

if TYPE_CHECKING:
    from pathlib import Path

    from sinks.records import Decision, OperatorVerb

_COLUMNS = {
    "time": "time (UTC)",
    "action": "action",
    "key": "key",
    "model": "model",
    "rule": "rule",
    "outcome": "outcome",
    "decision": "decision",
}
_WAITING_COLUMNS = {
    "until": "waits until (UTC)",
    "action": "action",
    "key": "key",
    "model": "model",
    "rule": "rule",
    "decision": "decision",
}


@click.group(
    "decisions",
    epilog=examples(
        "modelwarden decisions list --since 24h",
        "modelwarden decisions list --sent -o ndjson | jq -r .command.command_id",
        "modelwarden decisions show 3f2c3e10897d",
        "modelwarden decisions undo 3f2c3e10897d --reason 'their own evaluation'",
    ),
)
def command() -> None:
    """List what the policy decided, and whether a command left; approve, reject, undo."""


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


@command.command(
    "pending",
    epilog=examples(
        "modelwarden decisions pending", "modelwarden decisions pending -o ndjson | jq -r .decision_id"
    ),
)
@filter_options
@partial(place_options, default="none, but the brokers")
def pending(
    *, run_dir: Path | None, kafka: str | None, settings_file: Path | None, output: str, **wanted: Any
) -> None:
    """List decisions that wait for a person's approval, and until when: on the brokers, or in a run's folder.

    Without --run, from the brokers of the settings, where `decisions approve` sends the answer.
    """
    from streams.clock import SystemClock  # noqa: PLC0415 - --help need not wait for it

    if run_dir is None and kafka is None:
        kafka = read_settings(None, settings_file).kafka
    found = read_findings(run_dir, kafka, settings_file)
    now_ms = SystemClock().now_ms()
    settled = {decision.follows for decision in found.decisions if decision.withheld is None}
    waiting = [
        decision
        for decision in found.decisions
        if (decision.pending_until_ms or 0) > now_ms and decision.decision_id not in settled
    ]
    chosen = Wanted(**wanted).choose(waiting)
    print_rows(chosen if output != "table" else map(_waiting_row, chosen), _WAITING_COLUMNS, output)


@command.command(
    "approve",
    epilog=examples("modelwarden decisions approve 3f2c3e10897d --reason 'same script as last week'"),
)
@click.argument("decision_id", metavar="ID")
@signing_options
def approve(*, decision_id: str, reason: str, output: str, **desk_options: Any) -> None:
    """Let a revocation leave that waits for a person; see `decisions pending`."""
    _act("approve", "Approved", decision_id, reason, output, desk_options)


@command.command(
    "reject", epilog=examples("modelwarden decisions reject 3f2c3e10897d --reason 'their nightly batch'")
)
@click.argument("decision_id", metavar="ID")
@signing_options
def reject(*, decision_id: str, reason: str, output: str, **desk_options: Any) -> None:
    """Refuse a revocation that waits; the suspension that was for it is lifted."""
    _act("reject", "Rejected", decision_id, reason, output, desk_options)


@command.command(
    "undo", epilog=examples("modelwarden decisions undo 3f2c3e10897d --reason 'evaluation, agreed with them'")
)
@click.argument("decision_id", metavar="ID")
@signing_options
def undo(*, decision_id: str, reason: str, output: str, **desk_options: Any) -> None:
    """Restore the key, let the same finding pass from now on, and remember it as honest."""
    _act("undo", "Undone", decision_id, reason, output, desk_options)


def _act(  # noqa: PLR0913, PLR0917 - what three commands share
    verb: OperatorVerb, said: str, decision_id: str, reason: str, output: str, desk_options: dict[str, Any]
) -> None:
    with open_desk(**desk_options) as desk:
        decision = find_decision(desk, decision_id)
        action = act_on(desk, verb, decision, reason)
    if output != "table":
        print_json(action)
    else:
        about = f"{decision.action} of {decision.key}"
        click.echo(f"{said}: {about}, with the workers' next snapshot. See `modelwarden decisions list`.")


def _waiting_row(decision: Decision) -> dict[str, object]:
    from streams.keyview import utc  # noqa: PLC0415 - rich is slow to import

    return _row(decision) | {"until": utc(decision.pending_until_ms or 0)}


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
