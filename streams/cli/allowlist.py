"""`modelwarden allowlist`: keys that no command touches, in the policy and at the serving layers."""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING, Any

import click

from streams.cli.output import examples, print_json, print_rows
from streams.cli.sign import broker_options, open_desk, open_publisher, read_settings, signing_options
from streams.errors import ModelwardenError

if TYPE_CHECKING:
    from pathlib import Path

    from sinks.records import Allow

_COLUMNS = {
    "id": "id",
    "covers": "covers",
    "purpose": "purpose",
    "until": "until (UTC)",
    "owner": "owner",
    "reason": "reason",
}
_DURATION = re.compile(r"^(\d{1,5})([hd])$")
_MAX_DAYS = 366


@click.group(
    "allowlist",
    epilog=examples(
        "modelwarden allowlist add --tenant acme --purpose evaluation --for 90d --reason 'contract 7'",
        "modelwarden allowlist list",
        "modelwarden allowlist remove 3f2c3e10897d --reason 'contract ended'",
    ),
)
def command() -> None:
    """Leave keys alone: no command touches them, and what stands against them is lifted."""


def _read_duration(_ctx: click.Context, _parameter: click.Parameter, text: str) -> dt.timedelta:
    found = _DURATION.match(text)
    if found is None:
        raise click.BadParameter("write a number of hours or days, such as 12h or 90d")
    span = dt.timedelta(**{{"h": "hours", "d": "days"}[found[2]]: int(found[1])})
    if not dt.timedelta() < span <= dt.timedelta(days=_MAX_DAYS):
        raise click.BadParameter(f"an entry ends within {_MAX_DAYS} days; renew it then")
    return span


@command.command(
    "add",
    epilog=examples(
        "modelwarden allowlist add --tenant acme --model digits --purpose evaluation --for 90d --reason '#7'",
        "modelwarden allowlist add --key k0-6adb091da716db6b850c1c3ee08315f6 --purpose 'load test' \\",
        "    --for 12h --reason 'ticket 812'",
    ),
)
@click.option("--key", "keys", multiple=True, metavar="REF", help="A key's reference; may be repeated.")
@click.option("--tenant", "tenants", multiple=True, metavar="NAME", help="A tenant; may be repeated.")
@click.option("--plan", "plans", multiple=True, metavar="NAME", help="A plan; may be repeated.")
@click.option("--model", "models", multiple=True, metavar="NAME", help="A model; may be repeated.")
@click.option("--purpose", required=True, metavar="TEXT", help="What the keys are used for.")
@click.option("--owner", metavar="NAME", help="Who answers for it.  [default: you]")
@click.option("--for", "span", required=True, callback=_read_duration, metavar="90d", help="For how long.")
@signing_options
def add(  # noqa: PLR0913 - options
    *,
    keys: tuple[str, ...],
    tenants: tuple[str, ...],
    plans: tuple[str, ...],
    models: tuple[str, ...],
    purpose: str,
    owner: str | None,
    span: dt.timedelta,
    reason: str,
    output: str,
    **desk_options: Any,
) -> None:
    """Leave the keys alone that all the lists given hold, and lift what stands against them."""
    if not (keys or tenants or plans or models):
        raise click.UsageError("Name a --key, --tenant, --plan or --model: no entry covers everything.")
    from sinks.records import Allow  # noqa: PLC0415 - --help need not wait for it
    from streams.publish import new_id  # noqa: PLC0415

    with open_desk(**desk_options) as desk:
        entry = Allow(
            allow_id=new_id(),
            keys=keys,
            tenants=tenants,
            plans=plans,
            models=models,
            purpose=purpose,
            owner=owner or desk.operator,
            reason=reason,
            issued_ms=desk.now_ms,
            expires_ms=desk.now_ms + round(1000 * span.total_seconds()),
            sequence=0,
        )
        _tell(desk.publisher.allow(desk.signer, entry), output, "Added")


@command.command(
    "remove", epilog=examples("modelwarden allowlist remove 3f2c3e10897d --reason 'contract ended'")
)
@click.argument("allow_id", metavar="ID")
@signing_options
def remove(*, allow_id: str, reason: str, output: str, **desk_options: Any) -> None:
    """Take an entry back, by its id or the beginning of it."""
    import msgspec  # noqa: PLC0415 - see add

    with open_desk(**desk_options) as desk:
        entry = _find(desk.publisher.allowlist().entries, allow_id)
        withdrawn = msgspec.structs.replace(entry, withdrawn=True, reason=reason, issued_ms=desk.now_ms)
        _tell(desk.publisher.allow(desk.signer, withdrawn), output, "Removed")


@command.command("list", epilog=examples("modelwarden allowlist list", "modelwarden allowlist list -o json"))
@broker_options
def list_entries(*, kafka: str | None, settings_file: Path | None, output: str) -> None:
    """List the entries in force, and those that have ended but were not removed."""
    with open_publisher(read_settings(kafka, settings_file)) as publisher:
        entries = publisher.allowlist().entries
    print_rows(entries if output != "table" else map(_row, entries), _COLUMNS, output)


def _find(entries: tuple[Allow, ...], given: str) -> Allow:
    found = [entry for entry in entries if entry.allow_id.startswith(given)]
    if len(found) != 1:
        why = "no entry has this id" if not found else f"{len(found)} entries begin so"
        raise ModelwardenError(f"allowlist entry {given}", why, "See `modelwarden allowlist list`")
    return found[0]


def _tell(entry: Allow, output: str, what: str) -> None:
    if output != "table":
        print_json(entry)
        return
    row = _row(entry)
    click.echo(f"{what} {entry.allow_id}: {row['covers']}, until {row['until']} UTC.")


def _row(entry: Allow) -> dict[str, object]:
    lists = {"key": entry.keys, "tenant": entry.tenants, "plan": entry.plans, "model": entry.models}
    until = dt.datetime.fromtimestamp(entry.expires_ms / 1000, dt.UTC)
    return {
        "id": entry.allow_id[:12],
        "covers": "; ".join(f"{name} {' or '.join(values)}" for name, values in lists.items() if values),
        "purpose": entry.purpose,
        "until": f"{until:%Y-%m-%d %H:%M}",
        "owner": entry.owner,
        "reason": entry.reason,
    }
