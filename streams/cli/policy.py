"""`modelwarden policy`: check a policy file, make a signing key."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from sinks.policyfile import Policy, load_policy, weaker
from sinks.signing import generate_key
from streams.cli.output import examples, output_option, print_json, print_rows

if TYPE_CHECKING:
    from sinks.rules import Rule

_COLUMNS = {"rule": "RULE", "when": "IF THE ALERT HAS", "then": "THEN", "hours": "FOR HOURS", "mode": "MODE"}


@click.group(
    "policy",
    epilog=examples("modelwarden policy check policy.yaml", "modelwarden policy keygen signing.pem"),
)
def command() -> None:
    """Check a policy file, or make the key that signs commands."""


@command.command(
    "check",
    epilog=examples("modelwarden policy check policy.yaml", "modelwarden policy check policy.yaml -o json"),
)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), required=False)
@output_option
def check(file: Path | None, output: str) -> None:
    """Read a policy FILE strictly and show what it would do; without FILE, the default policy."""
    policy = load_policy(file)
    if output != "table":
        print_json({"valid": True, "policy_version": policy.policy_version, "policy": policy})
        return
    click.echo(f"{file or 'The default policy'} is valid: {policy.policy_version}, mode {policy.mode}.\n")
    print_rows([_row(policy, rule) for rule in policy.rules], _COLUMNS, output, right=("hours",))
    for item in policy.exceptions:
        covered = ", ".join((*item.keys, *item.tenants, *item.plans, *item.models))
        click.echo(f"No command touches {covered} until {item.expires} ({item.owner}: {item.reason}).")


def _row(policy: Policy, rule: Rule) -> dict[str, str]:
    conditions = msgspec.structs.asdict(rule.conditions)
    given = [f"{name} {_words(value)}" for name, value in conditions.items() if value]
    parameters = [f"{name} {value:g}" for name, value in rule.parameters.items()]
    return {
        "rule": rule.name,
        "when": ", ".join(given),
        "then": ", ".join([rule.action, *parameters]),
        "hours": f"{rule.duration_s / 3600:g}",
        "mode": weaker(policy.mode, rule.mode),
    }


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
