"""`modelwarden reconcile`: see to it that commands are obeyed."""

from __future__ import annotations

import os
from pathlib import Path

import click

from streams.cli.output import examples
from streams.companion import PORTS, Companion
from streams.logs import setup_logs
from streams.settings import load_settings

_STUCK_S = 120.0
_CHECK_S = 1.0


@click.command(
    "reconcile",
    epilog=examples(
        "modelwarden reconcile --trusted-keys trusted.yaml",
        "modelwarden reconcile --trusted-keys signing.pem.pub --limit 5 --metrics-port 9475",
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
@click.option("--metrics-host", default="127.0.0.1", show_default=True)
@click.option("--metrics-port", type=click.IntRange(1, 65_535), default=PORTS["reconcile"], show_default=True)
def command(
    *, settings_file: Path | None, trusted_keys: Path, limit: float, metrics_host: str, metrics_port: int
) -> None:
    """Send commands again that no serving layer acknowledges, and page by metric; stop with Ctrl-C.

    Also writes the last valid command of a key again where an old or false record hides it: serving layers
    that start later see only what was written last. Verifies the audit chain each hour, too. Keeps nothing on
    disk; two of them are harmless.
    """
    from streams.reconcile import ReconcileLoop  # noqa: PLC0415 - kafka-python is slow to import

    settings = load_settings(settings_file, os.environ)
    setup_logs(settings.log)
    companion = Companion("reconcile", _STUCK_S)
    loop = ReconcileLoop(settings, trusted_keys, companion, limit_ms=int(1000 * limit))
    with companion.serving(metrics_host, metrics_port):
        loop.start()
        try:
            while not companion.stopped.wait(_CHECK_S):
                loop.check()
        finally:
            loop.stop()
