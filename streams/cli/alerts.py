"""`modelwarden alerts`: what was found, newest last."""

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
    "key": "key",
    "model": "model",
    "query_count": "query",
    "families": "families",
    "alert": "alert",
}


@click.group(
    "alerts",
    epilog=examples(
        "modelwarden alerts list --level critical --since 24h",
        "modelwarden alerts list --kafka 127.0.0.1:9092 -o ndjson | jq -r .sentence",
        "modelwarden alerts show 6c8660bfd0e8",
    ),
)
def command() -> None:
    """List and show alerts: findings about keys and campaigns. An alert decides nothing."""


@command.command(
    "list",
    epilog=examples("modelwarden alerts list --run run/1", "modelwarden alerts list --model mnist -o json"),
)
@filter_options
@place_options
def list_alerts(
    *, run_dir: Path | None, kafka: str | None, settings_file: Path | None, output: str, **wanted: Any
) -> None:
    """List alerts in order of time."""
    found = read_findings(run_dir, kafka, settings_file)
    chosen = Wanted(**wanted).choose(list(found.alerts))
    print_rows(chosen if output != "table" else map(_row, chosen), _COLUMNS, output, right=("query_count",))


@command.command("show", epilog=examples("modelwarden alerts show 6c8660bfd0e8 --run run/1"))
@click.argument("alert_id", metavar="ID")
@place_options
def show(
    alert_id: str, *, run_dir: Path | None, kafka: str | None, settings_file: Path | None, output: str
) -> None:
    """Show one alert in full, by its id or the beginning of it."""
    found = read_findings(run_dir, kafka, settings_file)
    alert = one_by_id(list(found.alerts), "alert_id", alert_id, found.source)
    if output != "table":
        print_json(alert)
        return
    from streams.cli.output import make_console  # noqa: PLC0415 - rich is slow to import
    from streams.keystory import KeyStory  # noqa: PLC0415
    from streams.keyview import show_explained  # noqa: PLC0415

    about = [record for record in found.decisions if record.alert_id == alert.alert_id]
    sent = [record for record in found.commands if record.alert_id == alert.alert_id]
    story = KeyStory(
        key=alert.key, source=found.source, alerts=(alert,), decisions=tuple(about), commands=tuple(sent)
    )
    show_explained(story, make_console())


def _row(alert: Alert) -> dict[str, object]:
    from streams.keyview import utc  # noqa: PLC0415 - see show

    return {
        "time": utc(alert.time_ms),
        "level": alert.level,
        "key": alert.key if alert.subject == "key" else f"{len(alert.members)} keys",
        "model": alert.model,
        "query_count": alert.query_count,
        "families": ", ".join(alert.families).replace("_", " "),
        "alert": alert.alert_id[:12],
    }
