"""What commands that change a deployment share: who does it, why, with which key, and on which brokers."""

from __future__ import annotations

import getpass
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from streams.cli.output import output_option
from streams.errors import ModelwardenError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sinks.records import Decision, OperatorAction, OperatorVerb
    from sinks.signing import Signer
    from streams.publish import Publisher
    from streams.settings import Settings

KEY_VARIABLE = "MODELWARDEN_OPERATOR_KEY"
"""Holds a private key in PEM, where a file is not wanted."""


class Desk(msgspec.Struct, frozen=True):
    """A person's place of work: publisher, key and name."""

    publisher: Any
    signer: Any
    settings: Any
    operator: str
    now_ms: int


def broker_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--kafka`, `--settings` and `-o`."""
    for option in (
        click.option("--kafka", metavar="HOST:PORT", help="Brokers.  [default: of the settings]"),
        click.option("--settings", "settings_file", type=click.Path(path_type=Path),
                     envvar="MODELWARDEN_SETTINGS", help="Settings file: topics, trusted keys, signing key."),
        output_option,
    ):  # fmt: skip
        function = option(function)
    return function


def signing_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command what it needs to sign: a key, a name, a reason; and the brokers."""
    for option in (
        click.option("--signing-key", "key_file", type=click.Path(dir_okay=False, path_type=Path),
                     metavar="FILE", help=f"Your private key.  [default: ${KEY_VARIABLE}, else settings]"),
        click.option("--as", "operator", metavar="NAME", help="Who you are.  [default: your login]"),
        click.option("--reason", metavar="TEXT", required=True, help="Why; it stands in the audit chain."),
    ):  # fmt: skip
        function = option(function)
    return broker_options(function)


def read_settings(kafka: str | None, settings_file: Path | None) -> Settings:
    """Read the settings, with the brokers that were named."""
    from streams.settings import load_settings  # noqa: PLC0415 - numpy, which --help need not wait for

    environ = {n: v for n, v in os.environ.items() if n != KEY_VARIABLE}
    if kafka is not None:
        environ["MODELWARDEN_KAFKA"] = kafka
    return load_settings(settings_file, environ)


@contextmanager
def open_publisher(settings: Settings, signer: Signer | None = None) -> Iterator[Publisher]:
    """Connect; records count that are signed by trusted keys or, where none are set, by this signer."""
    from sinks.trustedkeys import TrustedKeys, trust  # noqa: PLC0415 - see read_settings
    from streams.bus.kafka import KafkaBus  # noqa: PLC0415
    from streams.publish import Publisher  # noqa: PLC0415
    from streams.trust import trusted_keys  # noqa: PLC0415

    trusted = trusted_keys(settings) or (TrustedKeys(()) if signer is None else trust(signer))
    bus = KafkaBus(settings.kafka, security=settings.kafka_security)
    try:
        yield Publisher(bus, settings, trusted)
    finally:
        bus.close()


@contextmanager
def open_desk(
    *, kafka: str | None, settings_file: Path | None, key_file: Path | None, operator: str | None
) -> Iterator[Desk]:
    """Connect, with the key that signs."""
    from streams.clock import SystemClock  # noqa: PLC0415 - see read_settings

    settings = read_settings(kafka, settings_file)
    signer = _find_signer(key_file, settings)
    with open_publisher(settings, signer) as publisher:
        yield Desk(publisher, signer, settings, operator or getpass.getuser(), SystemClock().now_ms())


def _find_signer(key_file: Path | None, settings: Settings) -> Signer:
    from sinks.signing import load_signer, signer_from_pem  # noqa: PLC0415 - brings cryptography

    if key_file is None and KEY_VARIABLE in os.environ:
        return signer_from_pem(os.environ[KEY_VARIABLE].encode(), f"variable {KEY_VARIABLE}")
    path = key_file or settings.signing_key_file
    if path is None:
        raise ModelwardenError(
            "no signing key",
            "what people decide is signed",
            f"Name one with --signing-key FILE or in ${KEY_VARIABLE}; `modelwarden policy keygen` makes one",
        )
    return load_signer(path)


def find_decision(desk: Desk, given: str) -> Decision:
    """Return the decision whose id begins so. Raises ModelwardenError."""
    from streams.cli.place import one_by_id  # noqa: PLC0415 - see read_settings
    from streams.findings import read_topics  # noqa: PLC0415

    found = read_topics(desk.publisher.bus, desk.settings)
    decision: Decision = one_by_id(list(found.decisions), "decision_id", given, found.source)
    return decision


def act_on(desk: Desk, verb: OperatorVerb, decision: Decision, reason: str) -> OperatorAction:
    """Sign and publish what a person decided about a decision."""
    from sinks.records import OperatorAction  # noqa: PLC0415 - see read_settings
    from streams.publish import new_id  # noqa: PLC0415

    action = OperatorAction(
        action_id=new_id(),
        action=verb,
        key=decision.key,
        model=decision.model,
        decision_id=decision.follows or decision.decision_id,
        alert_id=decision.alert_id,
        operator=desk.operator,
        reason=reason,
        time_ms=desk.now_ms,
    )
    done: OperatorAction = desk.publisher.act(desk.signer, action)
    return done
