"""`modelwarden campaigns`: keys that are one attacker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from streams.cli.output import examples, print_json, print_rows
from streams.cli.place import Wanted, filter_options, one_by_id, place_options, read_findings

if TYPE_CHECKING:
    from pathlib import Path

    from detectors.alert import Alert

_COLUMNS = {
    "time": "time (UTC)",
    "level": "level",
    "model": "model",
    "keys": "keys",
    "alert": "campaign",
    "sentence": "finding",
}


@click.group(
    "campaigns",
    epilog=examples(
        "modelwarden campaigns list",
        "modelwarden campaigns show 6c8660bfd0e8 -o json | jq -r '.members[]'",
    ),
)
def command() -> None:
    """List campaigns: keys linked by what they ask, told of as one. They decide nothing."""


@command.command("list", epilog=examples("modelwarden campaigns list --kafka 127.0.0.1:9092"))
@filter_options
@place_options
def list_campaigns(
    *, run_dir: Path | None, kafka: str | None, settings_file: Path | None, output: str, **wanted: Any
) -> None:
    """List campaigns in order of time."""
    chosen = Wanted(**wanted).choose(_campaigns(read_findings(run_dir, kafka, settings_file).alerts))
    print_rows(chosen if output != "table" else map(_row, chosen), _COLUMNS, output, right=("keys",))


@command.command("show", epilog=examples("modelwarden campaigns show 6c8660bfd0e8 --run run/1"))
@click.argument("campaign", metavar="ID")
@place_options
def show(
    campaign: str, *, run_dir: Path | None, kafka: str | None, settings_file: Path | None, output: str
) -> None:
    """Show one campaign and all of its keys, by its alert's id or the beginning of it."""
    found = read_findings(run_dir, kafka, settings_file)
    alert = one_by_id(_campaigns(found.alerts), "alert_id", campaign, found.source)
    if output != "table":
        print_json(alert)
        return
    click.echo(f"{alert.level} on {alert.model}: {alert.sentence}\n")
    alone = {a.key: a.level for a in found.alerts if a.subject == "key"}
    rows = [{"key": key, "alone": alone.get(key)} for key in alert.members]
    print_rows(rows, {"key": "key", "alone": "found by itself"}, output)


def _campaigns(alerts: tuple[Alert, ...]) -> list[Alert]:
    return [alert for alert in alerts if alert.subject == "campaign"]


def _row(alert: Alert) -> dict[str, object]:
    from streams.keyview import utc  # noqa: PLC0415 - rich is slow to import

    return {
        "time": utc(alert.time_ms),
        "level": alert.level,
        "model": alert.model,
        "keys": len(alert.members),
        "alert": alert.alert_id[:12],
        "sentence": alert.sentence,
    }
