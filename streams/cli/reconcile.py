"""`modelwarden reconcile`: see to it that commands are obeyed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streams.cli.output import examples
from streams.logs import setup_logs
from streams.settings import load_settings

if TYPE_CHECKING:
    from threading import Event

    from streams.reconcile import ReconcileLoop


@click.command(
    "reconcile",
    epilog=examples(
        "modelwarden reconcile --trusted-keys trusted.yaml",
        "modelwarden reconcile --trusted-keys signing.pem.pub --limit 5 --metrics-port 9466",
    ),
)
@click.option(
    "--settings",
    "settings_file",
    type=click.Path(path_type=Path),
    envvar="MODELWARDEN_SETTINGS",
    help="Settings file; the environment overrides it.",
)
@click.option(
    "--trusted-keys",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE",
    help="Whose commands are believed: a trusted-keys file, or one public key (*.pub).",
)
@click.option(
    "--limit",
    type=click.FloatRange(0.1),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="A command that nobody acknowledges for so long is sent again.",
)
@click.option(
    "--metrics-port", type=click.IntRange(0, 65_535), default=0, help="Of the metrics, on loopback. 0: none."
)
def command(settings_file: Path | None, trusted_keys: Path, limit: float, metrics_port: int) -> None:
    """Send commands again that no serving layer acknowledges, and page by metric; stop with Ctrl-C.

    Also writes the last valid command of a key again where an old or false record hides it: serving layers
    that start later see only what was written last. Keeps nothing on disk; two of them are harmless.
    """
    from streams.cli.progress import stop_on_interrupt  # noqa: PLC0415 - with the command's own imports
    from streams.reconcile import ReconcileLoop  # noqa: PLC0415 - kafka-python is slow to import

    settings = load_settings(settings_file, os.environ)
    setup_logs(settings.log)
    loop = ReconcileLoop(settings, trusted_keys, limit_ms=int(1000 * limit))
    with stop_on_interrupt() as stop:
        _run(loop, stop, metrics_port)


def _run(loop: ReconcileLoop, stop: Event, metrics_port: int) -> None:
    if metrics_port:
        loop.serve_metrics(metrics_port)
    loop.start()
    try:
        while not stop.wait(0.5):
            pass
    finally:
        loop.stop()
