"""`modelwarden revoker`: have revocations done by the provider's key store."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from sinks.errors import ModelwardenError
from streams.cli.output import examples, output_option, print_rows
from streams.companion import PORTS, Companion
from streams.logs import setup_logs
from streams.settings import load_settings

if TYPE_CHECKING:
    from sinks.revocation.base import Adapter
    from streams.settings import Settings

_STUCK_S = 120.0
DEFAULT_OUTBOX = Path("revocations.sqlite")
_COLUMNS = {
    "command_id": "COMMAND",
    "key": "KEY",
    "action": "ACTION",
    "state": "STATE",
    "attempts": "ATTEMPTS",
    "error": "LAST ERROR",
}

_outbox_option = click.option(
    "--outbox",
    type=click.Path(dir_okay=False, path_type=Path),
    default=DEFAULT_OUTBOX,
    show_default=True,
    help="Where orders are kept until they are done.",
)


@click.group(
    "revoker",
    epilog=examples(
        "modelwarden revoker run --trusted-keys trusted.yaml --webhook https://keys.example.com/revocations",
        "modelwarden revoker list --state dead",
        "modelwarden revoker retry --all",
    ),
)
def command() -> None:
    """Have revocations done by the provider's key store; see what waits and what was given up."""


@command.command(
    "run",
    epilog=examples(
        "WEBHOOK_SECRET=whsec_... modelwarden revoker run --trusted-keys trusted.yaml "
        "--webhook https://keys.example.com/revocations",
        "LITELLM_ADMIN_KEY=... modelwarden revoker run --trusted-keys trusted.yaml "
        "--litellm https://llm.example.com --key-map keys.jsonl",
        "modelwarden revoker run --trusted-keys trusted.yaml --journal revocations.jsonl",
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
@click.option("--webhook", metavar="URL", help="Post signed orders there; the secret is in WEBHOOK_SECRET.")
@click.option(
    "--litellm", metavar="URL", help="Block keys at this proxy; LITELLM_ADMIN_KEY holds an admin key."
)
@click.option(
    "--key-map",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help='For --litellm: lines {"key": REFERENCE, "token": HASH}.',
)
@click.option(
    "--journal",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Only write orders down.",
)
@click.option("--name", default="revoker", show_default=True, help="In acknowledgements.")
@click.option(
    "--first-retry",
    type=click.FloatRange(0.01),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Wait after a first failure; doubled after each, up to five minutes.",
)
@click.option("--metrics-host", default="127.0.0.1", show_default=True)
@click.option("--metrics-port", type=click.IntRange(1, 65_535), default=PORTS["revoker"], show_default=True)
@_outbox_option
def run(settings_file: Path | None, trusted_keys: Path, **options: Any) -> None:
    """Take revocations and restores off the commands topic and deliver them; stop with Ctrl-C or SIGTERM."""
    settings = load_settings(settings_file, os.environ)
    setup_logs(settings.log)
    adapter = _adapter(options["webhook"], options["litellm"], options["key_map"], options["journal"])
    companion = Companion("revoker", _STUCK_S)
    with companion.serving(options["metrics_host"], options["metrics_port"]):
        asyncio.run(_run(settings, trusted_keys, adapter, companion, options))


def _adapter(webhook: str | None, litellm: str | None, key_map: Path | None, journal: Path | None) -> Adapter:
    if sum(one is not None for one in (webhook, litellm, journal)) != 1:
        raise click.UsageError("Give one of --webhook, --litellm and --journal.")
    # Imported here: aiohttp, which --help need not wait for.
    from sinks.revocation import journal as journals  # noqa: PLC0415
    from sinks.revocation import litellm as litellms  # noqa: PLC0415
    from sinks.revocation import webhook as webhooks  # noqa: PLC0415

    if webhook is not None:
        try:
            return webhooks.WebhookAdapter(webhook, webhooks.decode_secret(_secret("WEBHOOK_SECRET")))
        except ValueError as error:
            do = 'Make one with `echo "whsec_$(openssl rand -base64 32)"`'
            raise ModelwardenError("variable WEBHOOK_SECRET", str(error), do) from None
    if litellm is not None:
        if key_map is None:
            raise click.UsageError("--litellm needs --key-map.")
        return litellms.LiteLLMAdapter(litellm, _secret("LITELLM_ADMIN_KEY"), litellms.KeyMap(key_map))
    return journals.JournalAdapter(journal or Path())


def _secret(name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise ModelwardenError(f"variable {name}", "it is not set", "Set it; secrets are no arguments")
    return value


async def _run(
    settings: Settings, trusted_keys: Path, adapter: Adapter, companion: Companion, options: dict[str, Any]
) -> None:
    from sinks.revocation.process import run_revoker  # noqa: PLC0415 - kafka-python is slow to import

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await run_revoker(
        stop,
        adapter,
        kafka=settings.kafka,
        security=settings.kafka_security,
        prefix=settings.topic_prefix,
        trusted_keys=trusted_keys,
        outbox_path=options["outbox"],
        name=options["name"],
        first_retry_s=options["first_retry"],
        instruments=companion.instruments,
        beat=companion.health.beat,
    )


@command.command(
    "list", epilog=examples("modelwarden revoker list", "modelwarden revoker list --state dead -o ndjson")
)
@click.option("--state", type=click.Choice(["pending", "done", "dead", "superseded", "unneeded"]))
@_outbox_option
@output_option
def list_orders(state: Any, outbox: Path, output: str) -> None:
    """List the orders in the outbox, oldest first."""
    from sinks.revocation.outbox import Outbox  # noqa: PLC0415 - see run

    opened = Outbox(outbox)
    rows = [
        msgspec.to_builtins(entry.order)
        | {"state": entry.state, "attempts": entry.attempts, "error": entry.error, "due_ms": entry.due_ms}
        for entry in opened.entries(state)
    ]
    opened.close()
    print_rows(rows, _COLUMNS, output, right=("attempts",))


@command.command(
    "retry",
    epilog=examples("modelwarden revoker retry 00ab...", "modelwarden revoker retry --all"),
)
@click.argument("command_id", required=False)
@click.option("--all", "every", is_flag=True, help="Every order that was given up.")
@_outbox_option
def retry(command_id: str | None, every: bool, outbox: Path) -> None:  # noqa: FBT001 - click passes options by name
    """Take orders up again that were given up."""
    if (command_id is None) != every:
        raise click.UsageError("Name one command, or give --all.")
    from sinks.revocation.outbox import Outbox  # noqa: PLC0415 - see run
    from sinks.serving.clock import now_ms  # noqa: PLC0415 - same

    opened = Outbox(outbox)
    count = opened.retry(now_ms(), command_id)
    opened.close()
    click.echo(f"{count} orders are tried again.")
