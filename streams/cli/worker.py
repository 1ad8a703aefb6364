"""`modelwarden worker`: detect on Kafka, with Faust."""

from __future__ import annotations

import os
from pathlib import Path

import click

from streams.cli.output import examples
from streams.logs import setup_logs
from streams.settings import load_settings


@click.command(
    "worker", epilog=examples("modelwarden worker", "modelwarden worker --settings modelwarden.yaml")
)
@click.option(
    "--settings",
    "settings_file",
    type=click.Path(path_type=Path),
    envvar="MODELWARDEN_SETTINGS",
    help="Settings file (YAML or TOML); the environment overrides it.",
)
def command(settings_file: Path | None) -> None:
    """Read events from Kafka, write alerts and commands; stop with Ctrl-C or SIGTERM.

    Start one worker per core; they share the partitions. Killed in any way, a worker that starts again goes
    on where its state is.
    """
    settings = load_settings(settings_file, os.environ)
    setup_logs(settings.log)
    from streams.app import build_app, run_worker  # noqa: PLC0415 - Faust takes a second to import
    from streams.pipeline import build_pipeline  # noqa: PLC0415
    from streams.topics import require_topics  # noqa: PLC0415

    # What cannot work is refused here, in one line; later it would be one among Faust's.
    build_pipeline(settings)
    require_topics(settings.kafka, security=settings.kafka_security, prefix=settings.topic_prefix)
    run_worker(build_app(settings))
