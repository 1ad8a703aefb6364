"""`modelwarden canary`: a synthetic attack that must be caught every few minutes."""

from __future__ import annotations

import os
from pathlib import Path

import click
import structlog

from sinks.errors import ModelwardenError
from streams.bus.base import BusError
from streams.cli.output import examples, output_option, print_rows
from streams.clock import SystemClock
from streams.companion import PORTS, Companion
from streams.logs import setup_logs
from streams.settings import load_settings

log = structlog.get_logger(__name__)
_COLUMNS = {"model": "MODEL", "caught": "CAUGHT", "level": "LEVEL", "seconds": "SECONDS", "key": "KEY"}


@click.command(
    "canary",
    epilog=examples("modelwarden canary --model digits", "modelwarden canary --model digits --once -o json"),
)
@click.option("--model", "models", multiple=True, help="A model with a reference; may be given again.")
@click.option("--every", "every_s", type=click.FloatRange(1), default=60, show_default=True, help="Seconds.")
@click.option("--once", is_flag=True, help="Attack once, print what came of it; exit code 1 if missed.")
@click.option("--metrics-host", default="127.0.0.1", show_default=True)
@click.option("--metrics-port", type=click.IntRange(1, 65_535), default=PORTS["canary"], show_default=True)
@click.option("--settings", "settings_file", type=click.Path(path_type=Path), envvar="MODELWARDEN_SETTINGS")
@output_option
def command(  # noqa: PLR0913 - one parameter per option
    *,
    models: tuple[str, ...],
    every_s: float,
    once: bool,
    metrics_host: str,
    metrics_port: int,
    settings_file: Path | None,
    output: str,
) -> None:
    """Attack models with a synthetic key, and tell Prometheus when that was last noticed.

    The key is marked: it is never learned from, commanded or counted. Without --model, the models for which
    the settings name references. Stop with Ctrl-C or SIGTERM.
    """
    settings = load_settings(settings_file, os.environ)
    setup_logs(settings.log)
    from streams.bus.kafka import KafkaBus  # noqa: PLC0415 - brings kafka-python
    from streams.canary import Canary  # noqa: PLC0415 - brings numpy
    from streams.pipeline import load_references  # noqa: PLC0415 - brings numba

    if not models and settings.references_path is not None:
        models = tuple(sorted(load_references(settings.references_path)))
    if not models:
        do = "Use --model with one that has a reference"
        raise ModelwardenError("canary", "no model is named, and the settings name no references", do)
    companion = Companion("canary", stuck_s=3 * every_s + 60)
    bus = KafkaBus(settings.kafka, security=settings.kafka_security)
    try:
        canary = Canary(bus, settings, models, companion.instruments, SystemClock())
        if once:
            caught = canary.attack(every_s)
            print_rows(caught, _COLUMNS, output)
            raise SystemExit(0 if all(one.caught for one in caught) else 1)
        with companion.serving(metrics_host, metrics_port):
            while not companion.stopped.is_set():
                started_s = SystemClock().monotonic_s()
                try:
                    canary.attack(every_s, companion.health.beat)
                except BusError as error:  # not caught is what the metric then says, and that pages
                    log.warning("broker_away", error=str(error))
                companion.stopped.wait(max(started_s + every_s - SystemClock().monotonic_s(), 0))
    finally:
        bus.close()
