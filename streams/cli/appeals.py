"""`modelwarden appeals`: a customer objects, and a person answers."""

from __future__ import annotations

from typing import Any

import click

from streams.cli.output import examples, print_json
from streams.cli.sign import act_on, find_decision, open_desk, signing_options


@click.group(
    "appeals",
    epilog=examples(
        "modelwarden appeals open 3f2c3e10897d --reason 'they say it is their test harness'",
        "modelwarden appeals resolve 3f2c3e10897d --grant --reason 'seen the harness'",
    ),
)
def command() -> None:
    """Put a customer's objection to a decision on record, and answer it."""


@command.command("open", epilog=examples("modelwarden appeals open 3f2c3e10897d --reason 'ticket 4711'"))
@click.argument("decision_id", metavar="DECISION")
@signing_options
def open_appeal(*, decision_id: str, reason: str, output: str, **desk_options: Any) -> None:
    """Record an objection; on-call people get a ticket. What stands goes on until it is resolved."""
    with open_desk(**desk_options) as desk:
        decision = find_decision(desk, decision_id)
        action = act_on(desk, "open_appeal", decision, reason)
    if output != "table":
        print_json(action)
    else:
        click.echo(f"Appeal opened: {decision.action} of {decision.key} ({decision.decision_id[:12]}).")


@command.command(
    "resolve",
    epilog=examples(
        "modelwarden appeals resolve 3f2c3e10897d --grant --reason 'their own evaluation'",
        "modelwarden appeals resolve 3f2c3e10897d --deny --reason 'the evidence stands'",
    ),
)
@click.argument("decision_id", metavar="DECISION")
@click.option("--grant/--deny", "granted", required=True, help="Restore the key, or leave it.")
@signing_options
def resolve(*, decision_id: str, granted: bool, reason: str, output: str, **desk_options: Any) -> None:
    """Grant an appeal, which restores the key and lets the same finding pass, or deny it."""
    with open_desk(**desk_options) as desk:
        decision = find_decision(desk, decision_id)
        action = act_on(desk, "grant_appeal" if granted else "deny_appeal", decision, reason)
    if output != "table":
        print_json(action)
    elif granted:
        click.echo(f"Granted: {decision.key} is restored with the workers' next snapshot.")
    else:
        click.echo(f"Denied: {decision.action} of {decision.key} stands.")
