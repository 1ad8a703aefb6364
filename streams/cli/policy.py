"""`modelwarden policy`: check a policy file, make a signing key."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

from sinks.policyfile import Policy, load_policy, weaker
from sinks.signing import generate_key

_output = click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True
)


@click.group("policy")
def command() -> None:
    """Check a policy file, or make the key that signs commands."""


@command.command("check")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), required=False)
@_output
def check(file: Path | None, output: str) -> None:
    r"""Read a policy FILE strictly and show what it would do; without FILE, the default policy.

    \b
    Example:
      modelwarden policy check policy.yaml
      modelwarden policy check policy.yaml -o json
    """
    policy = load_policy(file)
    if output == "json":
        answer = {"valid": True, "policy_version": policy.policy_version, "policy": policy}
        click.echo(msgspec.json.encode(answer).decode())
        return
    console = Console(width=None if Console().is_terminal else 120, highlight=False)
    console.print(f"{file or 'The default policy'} is valid: {policy.policy_version}, mode {policy.mode}.")
    console.print(_rules(policy))
    for item in policy.exceptions:
        covered = ", ".join((*item.keys, *item.tenants, *item.plans, *item.models))
        console.print(f"No command touches {covered} until {item.expires} ({item.owner}: {item.reason}).")


def _rules(policy: Policy) -> Table:
    table = Table("rule", "if the alert", "then", "for", "mode")
    for rule in policy.rules:
        conditions = msgspec.to_builtins(rule.conditions)
        given = [f"{name} {_words(value)}" for name, value in conditions.items() if value not in ([], (), 0)]
        parameters = "".join(f", {name} {value:g}" for name, value in rule.parameters.items())
        table.add_row(
            rule.name,
            "\n".join(given),
            rule.action + parameters,
            f"{rule.duration_s / 3600:g} h",
            weaker(policy.mode, rule.mode),
        )
    return table


def _words(value: object) -> str:
    return " or ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


@command.command("keygen")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_output
def keygen(file: Path, output: str) -> None:
    r"""Write a new Ed25519 signing key to FILE (only its owner can read it) and its public key to FILE.pub.

    The worker needs FILE (setting signing_key_file); serving layers need FILE.pub to verify commands.

    \b
    Example:
      modelwarden policy keygen signing.pem
    """
    public = file.with_name(file.name + ".pub")
    key = generate_key(file)
    if output == "json":
        answer = {"key_id": key, "private_key_file": str(file), "public_key_file": str(public)}
        click.echo(msgspec.json.encode(answer).decode())
    else:
        click.echo(
            f"Key {key}: private in {file} (keep it secret), public in {public} (give it to enforcers)."
        )
