"""`modelwarden annotate`: marks on Grafana's dashboards from alerts, commands and policy changes."""

from __future__ import annotations

import os
from pathlib import Path

import click

from streams.cli.output import examples
from streams.companion import PORTS, Companion
from streams.logs import setup_logs
from streams.settings import load_settings

_STUCK_S = 120.0


@click.command(
    "annotate",
    epilog=examples(
        "modelwarden annotate", "modelwarden annotate --spool /var/lib/modelwarden/annotations.db"
    ),
)
@click.option("--url", envvar="MODELWARDEN_GRAFANA_URL", show_envvar=True, help="https://grafana.example.com")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File with the token.  [default: the variable MODELWARDEN_GRAFANA_TOKEN]",
)
@click.option(
    "--spool",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("run/annotations.db"),
    show_default=True,
    help="File that keeps what Grafana does not have yet.",
)
@click.option("--metrics-host", default="127.0.0.1", show_default=True)
@click.option("--metrics-port", type=click.IntRange(1, 65_535), default=PORTS["annotate"], show_default=True)
@click.option("--settings", "settings_file", type=click.Path(path_type=Path), envvar="MODELWARDEN_SETTINGS")
def command(  # noqa: PLR0913 - one parameter per option
    *,
    url: str | None,
    token_file: Path | None,
    spool: Path,
    metrics_host: str,
    metrics_port: int,
    settings_file: Path | None,
) -> None:
    """Write alerts, commands and policy changes to Grafana as annotations, each once.

    One process a deployment. While Grafana is away they wait on disk; many at once are told as one. Detection
    never waits for any of it. Stop with Ctrl-C or SIGTERM.
    """
    settings = load_settings(settings_file, os.environ)
    setup_logs(settings.log)
    from streams.annotate import run  # noqa: PLC0415 - requests and kafka-python take a while to import
    from streams.bus.kafka import KafkaBus  # noqa: PLC0415 - same
    from streams.cli.grafana import connect  # noqa: PLC0415 - same

    companion = Companion("annotate", _STUCK_S)
    bus = KafkaBus(settings.kafka, security=settings.kafka_security)
    try:
        with connect(url, token_file) as client, companion.serving(metrics_host, metrics_port):
            run(bus, settings, client, spool, companion)
    finally:
        bus.close()
