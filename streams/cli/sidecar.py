"""`modelwarden sidecar`: enforcement and events over HTTP, beside a proxy or a server in any language."""

from __future__ import annotations

from pathlib import Path

import click

from streams.cli.output import examples
from streams.companion import PORTS
from streams.logs import setup_logs
from streams.settings import LogSettings


@click.command(
    "sidecar",
    epilog=examples(
        "modelwarden sidecar --settings deploy/examples/serving.yaml",
        "curl -i -H 'Authorization: Bearer sk-me' http://127.0.0.1:9470/check/predict",
    ),
)
@click.option(
    "--settings",
    "settings_file",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    envvar="MODELWARDEN_SERVING_SETTINGS",
    help="The serving process's settings (YAML or TOML).",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65_535), default=PORTS["serving"], show_default=True)
@click.option("--log-format", type=click.Choice(["console", "json"]), default="console", show_default=True)
def command(settings_file: Path, host: str, port: int, log_format: str) -> None:
    """Answer checks for Envoy's ext_authz and nginx's auth_request, take events, tell health and metrics.

    Whoever reaches it can emit events: keep it on loopback, or behind the mesh's own authentication.
    """
    # Imported here: aiohttp and kafka-python, which --help need not wait for.
    from sinks.serving.settings import load_serving_settings  # noqa: PLC0415
    from sinks.serving.sidecar import run_sidecar  # noqa: PLC0415
    from sinks.serving.warden import Warden  # noqa: PLC0415

    setup_logs(LogSettings(format=log_format))  # type: ignore[arg-type]
    run_sidecar(Warden(load_serving_settings(settings_file)), host, port)
