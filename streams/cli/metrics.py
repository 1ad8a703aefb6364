"""`modelwarden metrics`: what every process tells Prometheus."""

from __future__ import annotations

import click

from sinks.metrics.definition import COMPONENTS
from sinks.metrics.documents import entries
from streams.cli.output import examples, output_option, print_rows

_COLUMNS = {"name": "METRIC", "kind": "KIND", "labels": "LABELS", "tells": "WHAT IT TELLS"}


@click.group("metrics", epilog=examples("modelwarden metrics list", "modelwarden metrics list -o json"))
def command() -> None:
    """Show the catalogue of metrics."""


@command.command(
    "list",
    epilog=examples("modelwarden metrics list", "modelwarden metrics list --of worker -o ndjson"),
)
@click.option("--of", "component", type=click.Choice(COMPONENTS), help="Only the metrics of this process.")
@output_option
def list_metrics(component: str | None, output: str) -> None:
    """List every metric: its kind, its labels and what it tells."""
    rows = [entry for entry in entries() if component is None or component in entry["components"]]
    if output == "table":
        rows = [row | {"labels": ", ".join(row["labels"]) or "-"} for row in rows]
    print_rows(rows, _COLUMNS, output)
