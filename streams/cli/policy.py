"""`modelwarden policy`: check, publish and roll back the policy; make, trust and rotate keys."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from sinks.policyfile import Policy, load_policy, load_source, weaker
from sinks.rules import MODES, Conditions
from sinks.signing import generate_key, key_id, load_public_key
from sinks.trustedkeys import (
    PURPOSES,
    Purpose,
    load_trusted_keys,
    make_trusted,
    save_trusted_keys,
)
from streams.cli.output import examples, output_option, print_json, print_rows
from streams.cli.sign import broker_options, open_desk, open_publisher, read_settings, signing_options
from streams.errors import PolicyError, SigningError

if TYPE_CHECKING:
    from sinks.policytopic import SignedPolicy
    from sinks.records import Mode
    from sinks.rules import Rule, Step

_COLUMNS = {
    "rule": "RULE",
    "when": "IF THE ALERT HAS",
    "then": "THEN, AND WHEN IT HAPPENS AGAIN",
    "mode": "MODE",
}


@click.group(
    "policy",
    epilog=examples(
        "modelwarden policy check my-policy",
        "modelwarden policy push my-policy --reason 'suspend at critical only'",
        "modelwarden policy rollback --reason 'too strict for acme'",
        "modelwarden policy rotate-key trusted.yaml --new signing-2.pem",
    ),
)
def command() -> None:
    """Check, publish and roll back the policy; keep the keys that sign."""


@command.command(
    "check",
    epilog=examples("modelwarden policy check policy.yaml", "modelwarden policy check policy.yaml -o json"),
)
@click.argument("file", type=click.Path(path_type=Path), required=False)
@output_option
def check(file: Path | None, output: str) -> None:
    """Read a policy FILE or folder strictly and show what it would do; without it, the default policy."""
    policy = load_policy(file)
    if output != "table":
        print_json({"valid": True, "policy_version": policy.policy_version, "policy": policy})
        return
    click.echo(f"{file or 'The default policy'} is valid: {policy.policy_version}, mode {policy.mode}.\n")
    print_rows([_row(policy, rule) for rule in policy.rules], _COLUMNS, output)
    for item in policy.exceptions:
        covered = ", ".join((*item.keys, *item.tenants, *item.plans, *item.models))
        click.echo(f"No command touches {covered} until {item.expires} ({item.owner}: {item.reason}).")


def _row(policy: Policy, rule: Rule) -> dict[str, str]:
    given = [
        f"{name} {_words(value)}"
        for name, default in zip(Conditions.__struct_fields__, Conditions.__struct_defaults__, strict=True)
        if (value := getattr(rule.conditions, name)) != default
    ]
    mode = weaker(policy.mode, rule.strongest_mode)
    return {
        "rule": rule.name,
        "when": ", ".join(given) or "-",
        "then": " > ".join(_step(step) for step in rule.steps),
        "mode": mode if rule.maturity == "stable" else f"{mode} ({rule.maturity})",
    }


def _step(step: Step) -> str:
    parameters = ", ".join(f"{name} {value:g}" for name, value in step.parameters.items())
    return f"{step.action}{f' ({parameters})' if parameters else ''} {step.duration_s / 3600:g} h"


def _words(value: object) -> str:
    return " or ".join(value) if isinstance(value, tuple) else str(value)


@command.command(
    "keygen",
    epilog=examples("modelwarden policy keygen signing.pem", "modelwarden policy keygen signing.pem -o json"),
)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@output_option
def keygen(file: Path, output: str) -> None:
    """Write a new Ed25519 signing key to FILE (only its owner can read it) and its public key to FILE.pub.

    The worker needs FILE (setting signing_key_file); serving layers need FILE.pub to verify commands.
    """
    public = file.with_name(file.name + ".pub")
    key = generate_key(file)
    if output != "table":
        print_json({"key_id": key, "private_key_file": str(file), "public_key_file": str(public)})
    else:
        click.echo(
            f"Key {key}: private in {file} (keep it secret), public in {public} (give it to enforcers)."
        )


@command.command(
    "push",
    epilog=examples(
        "modelwarden policy push my-policy --reason 'first policy' --signing-key ana.pem",
        "modelwarden policy push my-policy --mode canary --reason 'try it on a share of keys'",
    ),
)
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--mode", type=click.Choice(MODES), help="In place of the policy's own mode.")
@signing_options
def push(*, path: Path, mode: Mode | None, reason: str, output: str, **desk_options: Any) -> None:
    """Sign the policy at PATH and publish it as the next version; workers take it up within seconds.

    Its rules' tests must pass.
    """
    from sinks.ruletests import run_tests  # noqa: PLC0415 - --help need not wait for it

    source = load_source(path)
    failed = [outcome for outcome in run_tests(source) if not outcome.passed]
    if failed:
        why = f"{len(failed)} of its rules' tests fail, first: {failed[0].rule}, {failed[0].test}"
        raise PolicyError(str(path), why, f"Run `modelwarden rules test {path}` and mend it")
    policy = source.policy if mode is None else msgspec.structs.replace(source.policy, mode=mode)
    with open_desk(**desk_options) as desk:
        signed = desk.publisher.policy(
            desk.signer, policy, author=desk.operator, reason=reason, now_ms=desk.now_ms
        )
    _tell(signed, output, "Published")


@command.command(
    "rollback",
    epilog=examples(
        "modelwarden policy rollback --reason 'too strict for acme'",
        "modelwarden policy rollback 12 --reason 'back to what held in May'",
    ),
)
@click.argument("sequence", type=click.IntRange(0), metavar="[VERSION]", required=False)
@signing_options
def rollback(*, sequence: int | None, reason: str, output: str, **desk_options: Any) -> None:
    """Put an earlier VERSION in force again, by its number; without it, the one before."""
    with open_desk(**desk_options) as desk:
        signed = desk.publisher.rollback(
            desk.signer, sequence, author=desk.operator, reason=reason, now_ms=desk.now_ms
        )
    _tell(signed, output, f"Rolled back to version {signed.rollback_to}: published")


@command.command(
    "reset-breaker",
    epilog=examples("modelwarden policy reset-breaker --reason 'all 20 are attackers'"),
)
@signing_options
def reset_breaker(*, reason: str, output: str, **desk_options: Any) -> None:
    """Close the breaker after a look at what tripped it: commands leave again."""
    with open_desk(**desk_options) as desk:
        signed = desk.publisher.reset_breaker(
            desk.signer, author=desk.operator, reason=reason, now_ms=desk.now_ms
        )
    _tell(signed, output, "Breaker reset with")


@command.command(
    "history", epilog=examples("modelwarden policy history", "modelwarden policy history -o json")
)
@broker_options
def history(*, kafka: str | None, settings_file: Path | None, output: str) -> None:
    """List every version of the policy, who published it and why; the last is in force."""
    with open_publisher(read_settings(kafka, settings_file)) as publisher:
        found = publisher.history()
    if output != "table":
        print_json(found)
        return
    columns = {"version": "version", "time": "time (UTC)", "policy": "policy", "mode": "mode",
               "author": "author", "reason": "reason"}  # fmt: skip
    print_rows(map(_version, found.versions), columns, output)
    for why in found.refused:
        click.echo(f"Refused: {why}")


@command.command("show", epilog=examples("modelwarden policy show", "modelwarden policy show -o json"))
@broker_options
def show(*, kafka: str | None, settings_file: Path | None, output: str) -> None:
    """Show the policy in force on the topic, as it was signed."""
    with open_publisher(read_settings(kafka, settings_file)) as publisher:
        newest = publisher.history().newest
    if newest is None:
        why = "none that is signed by a trusted key stands on the topic: workers follow their policy_file"
        raise PolicyError("the policy", why, "Publish one with `modelwarden policy push`")
    if output != "table":
        print_json(newest)
        return
    _tell(newest, output, "In force:")
    print_rows([_row(newest.policy, rule) for rule in newest.policy.rules], _COLUMNS, output)


def _tell(signed: SignedPolicy, output: str, what: str) -> None:
    if output != "table":
        print_json(signed)
    else:
        click.echo(
            f"{what} version {signed.sequence}: {signed.policy.policy_version}, mode {signed.policy.mode}."
        )


def _version(signed: SignedPolicy) -> dict[str, object]:
    time = dt.datetime.fromtimestamp(signed.issued_ms / 1000, dt.UTC)
    back = f" (version {signed.rollback_to} again)" if signed.rollback_to is not None else ""
    return {
        "version": signed.sequence,
        "time": f"{time:%Y-%m-%d %H:%M}",
        "policy": signed.policy.policy_version + back,
        "mode": signed.policy.mode,
        "author": signed.author,
        "reason": signed.reason,
    }


@command.command(
    "trust",
    epilog=examples(
        "modelwarden policy trust signing.pem.pub --to trusted.yaml --for commands",
        "modelwarden policy trust ana.pem.pub --to trusted.yaml --for policy --for operators --days 365",
    ),
)
@click.argument("public_key", type=click.Path(dir_okay=False, exists=True, path_type=Path))
@click.option(
    "--to",
    "trusted_file",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE",
    help="The trusted-keys file; made if missing.",
)
@click.option(
    "--for",
    "purposes",
    type=click.Choice(PURPOSES),
    multiple=True,
    required=True,
    help="What the key may sign; may be repeated.",
)
@click.option("--tenant", "tenants", multiple=True, metavar="NAME", help="Only about this tenant.")
@click.option("--days", type=click.IntRange(1), help="For so long.  [default: until it is rotated]")
@click.option("--note", default="", metavar="TEXT", help="Whose key it is.")
@output_option  # fmt: skip
def trust_key(  # noqa: PLR0913 - options
    *,
    public_key: Path,
    trusted_file: Path,
    purposes: tuple[Purpose, ...],
    tenants: tuple[str, ...],
    days: int | None,
    note: str,
    output: str,
) -> None:
    """Trust PUBLIC_KEY: put it into the file that workers and serving layers read."""
    now = _now()
    key = make_trusted(load_public_key(public_key), purposes, now, tenants=tenants, note=note)
    if days is not None:
        key = msgspec.structs.replace(key, not_after=now + dt.timedelta(days=days))
    keys = load_trusted_keys(trusted_file).keys if trusted_file.exists() else {}
    save_trusted_keys(trusted_file, [*(one for one in keys.values() if one.key_id != key.key_id), key])
    if output != "table":
        print_json({"key_id": key.key_id, "file": str(trusted_file)} | msgspec.to_builtins(key))
    else:
        click.echo(f"{trusted_file} trusts {key.key_id} for {' and '.join(purposes)}.")


@command.command(
    "rotate-key",
    epilog=examples(
        "modelwarden policy rotate-key trusted.yaml --old signing.pem.pub --new signing-2.pem",
    ),
)
@click.argument("trusted_file", type=click.Path(dir_okay=False, exists=True, path_type=Path))
@click.option(
    "--old",
    "old_file",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    required=True,
    metavar="FILE",
    help="The public key that is to end.",
)
@click.option(
    "--new",
    "new_file",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE",
    help="Where to write the new private key; its public key goes to FILE.pub.",
)
@click.option(
    "--overlap-days", type=click.IntRange(0, 90), default=7, show_default=True, help="So long both keys hold."
)
@output_option  # fmt: skip
def rotate_key(*, trusted_file: Path, old_file: Path, new_file: Path, overlap_days: int, output: str) -> None:
    """Make a new key that may sign what the old one may, and let the old one end after an overlap.

    Then give the file to workers and serving layers, and the new key to who signed with the old one. What the
    old key has signed in its time holds to its own end.
    """
    keys = dict(load_trusted_keys(trusted_file).keys)
    old_id = key_id(load_public_key(old_file))
    old = keys.get(old_id)
    if old is None:
        raise SigningError(f"key {old_id}", f"{trusted_file} does not trust it", "Name another --old")
    now = _now()
    generate_key(new_file)
    public = load_public_key(new_file.with_name(new_file.name + ".pub"))
    new = make_trusted(public, old.purposes, now, tenants=old.tenants, note=old.note)
    end = min(old.not_after, now + dt.timedelta(days=overlap_days))
    keys[old_id] = msgspec.structs.replace(old, not_after=end)
    save_trusted_keys(trusted_file, [*keys.values(), new])
    if output != "table":
        print_json({"old": old_id, "old_ends": end, "new": new.key_id, "private_key_file": str(new_file)})
    else:
        click.echo(f"{new.key_id} signs from now on ({new_file}); {old_id} ends {end:%Y-%m-%d %H:%M} UTC.")


def _now() -> dt.datetime:
    from streams.clock import SystemClock  # noqa: PLC0415 - see push

    return dt.datetime.fromtimestamp(SystemClock().now_ms() // 1000, dt.UTC)
