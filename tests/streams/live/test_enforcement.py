"""The whole way, on real Kafka: attacks over HTTP are throttled, suspended, revoked; an undo holds."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen
from uuid import uuid4

import msgspec
import numpy as np
import pytest

from detectors.alert import Alert
from sinks.records import Acknowledgement, Command, Decision
from streams.bus.kafka import KafkaBus
from streams.live.clients import Client, run_clients
from streams.live.deployment import Deployment
from streams.live.traffic import ATTACKS, PERSONAS, load_images
from streams.topics import TOPICS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from streams.bus.base import Message

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(400)]

CANARY_KEY = "sk-canary-5b1c9d2e7f"
"""What every raw key begins with; searched for in everything that is written."""
CANARY_PIXEL = 0.123454321
"""A pixel of every raw input."""
LADDER = ["rate_limited", "key_suspended", "key_revoked"]
"""Kinds of refusal in the order of their first."""


class Case:
    """The deployment's clients, and what stands on its topics."""

    def __init__(self, deployment: Deployment, bus: KafkaBus) -> None:
        self.deployment = deployment
        self.bus = bus
        self.images = load_images()
        self.images[:, 0] = CANARY_PIXEL  # a corner that is empty in every digit
        self.draw = np.random.default_rng(5)
        self.attackers = [self.client(name, n) for name in ATTACKS for n in range(2)]
        self.approved: set[str] = set()
        self.honest = [self.client(name, n) for name in PERSONAS for n in range(2)]

    def client(self, name: str, number: int) -> Client:
        key = f"{CANARY_KEY}-{name}-{number}"
        make = (ATTACKS | PERSONAS)[name]
        return Client(
            name=name,
            api_key=key,
            reference=self.deployment.reference(key),
            is_attacker=name in ATTACKS,
            questions=make(self.images, self.draw),
            wait_s=0.1 if name in ATTACKS else 1.1,
        )

    def records(self, topic: str) -> list[Message]:
        return [m for part in self.bus.read([self.deployment.prefix + topic]) for m in part]

    def decoded(self, topic: str, kind: type[Any]) -> list[Any]:
        return [msgspec.json.decode(m.value or b"", type=kind) for m in self.records(topic)]

    def revoked(self) -> set[str]:
        with urlopen(f"{self.deployment.store_url}/revoked") as answer:  # noqa: S310 - http on loopback
            return set(json.load(answer)["revoked"])

    def run(self, attackers: list[Client], goes_on: Callable[[Client], bool], timeout_s: float) -> None:
        """Let these attackers attack while honest customers go on and a person is on call."""
        for attacker in attackers:
            attacker.goes_on = goes_on
        asyncio.run(self._run(attackers, timeout_s))

    async def _run(self, attackers: list[Client], timeout_s: float) -> None:
        stop = asyncio.Event()
        url = self.deployment.server_url
        background = asyncio.gather(run_clients(self.honest, url, stop), self._be_on_call(stop))
        try:
            await asyncio.to_thread(self.deployment.wait_until_detecting)
            await asyncio.wait_for(run_clients(attackers, url, stop), timeout_s)
        finally:
            stop.set()
            await background

    async def _be_on_call(self, stop: asyncio.Event) -> None:
        """Approve every revocation that waits, as a person would at a terminal."""
        place = ("--kafka", self.deployment.kafka)
        while not stop.is_set():
            told = await asyncio.to_thread(
                self.deployment.command, "decisions", "pending", *place, "-o", "json"
            )
            for waiting in json.loads(told):
                words = (waiting["decision_id"], *place, "--reason", "seen", "--as", "ann")
                await asyncio.to_thread(self.deployment.command, "decisions", "approve", *words)
                self.approved.add(waiting["decision_id"])
            await asyncio.sleep(1)


def check_latency(case: Case) -> None:
    """From the alert on its topic to the first call refused for it, at suspensions and revocations."""
    stored = {}
    for message in case.records("alerts"):
        alert = msgspec.json.decode(message.value or b"", type=Alert)
        stored[alert.alert_id] = message.time_ms
    waits: list[int] = []
    timed: dict[str, set[str]] = {}
    for command in case.decoded("commands", Command):
        [client] = [one for one in case.attackers if one.reference == command.key]
        kind = {"suspend": "key_suspended", "revoke": "key_revoked"}.get(command.action)
        if kind is None or command.approved_by or kind in timed.setdefault(command.key, set()):
            continue
        timed[command.key].add(kind)
        waits.append(client.first_ms[kind] - stored[command.alert_id])
    print(f"alert to first refused call: p50 {np.percentile(waits, 50):.0f} ms, "
          f"p99 {np.percentile(waits, 99):.0f} ms, of {len(waits)}")  # fmt: skip


def check_undo(case: Case) -> None:
    """A person says honest: the key works again, at the provider too, and stays so on the same evidence."""
    client = next(one for one in case.attackers if one.name == "jacobian")
    case.deployment.wait(lambda: client.reference in case.revoked(), "a revocation at the provider")
    decided = [one for one in case.decoded("decisions", Decision) if one.key == client.reference]
    [revoked] = [one for one in decided if one.command is not None and one.command.action == "revoke"]
    place = ("--kafka", case.deployment.kafka)
    words = (revoked.decision_id, *place, "--reason", "a test of their own", "--as", "ann")
    case.deployment.command("decisions", "undo", *words)
    case.deployment.wait(lambda: client.reference not in case.revoked(), "a restore at the provider")
    again = case.client("jacobian", 0)
    assert again.reference == client.reference
    case.run([again], lambda one: one.answered < 120, 60)
    assert again.refused == {}


def check_acknowledged(case: Case) -> None:
    """Every command that was sent is acknowledged, and the provider's two failures were survived."""
    acks = case.decoded("acks", Acknowledgement)
    enforced = {ack.command_id for ack in acks if ack.outcome == "enforced" and ack.enforcer == "serving-0"}
    commands = case.decoded("commands", Command)
    assert {command.command_id for command in commands} == enforced
    revocations = {command.command_id for command in commands if command.action == "revoke"}
    done = {ack.command_id for ack in acks if ack.enforcer == "revoker" and ack.outcome == "enforced"}
    assert revocations <= done
    assert case.deployment.log("revoker").count("HTTP status 503") == 2
    assert "modelwarden_revocation_attempts_failed_total 2.0" in case.deployment.metrics("revoker")


def check_secrets(case: Case) -> None:
    """No raw key and no raw input in any topic, log, metric, file or crash dump."""
    deployment = case.deployment
    written = {f"metrics of the {name}": deployment.metrics(name).encode() for name in deployment.ports}
    for name in ("server", "worker", "revoker", "reconcile"):
        deployment.crash(name)
        assert "Fatal Python error: Aborted" in deployment.log(name), "there is a crash dump to search"
    for spec in TOPICS:
        for message in case.records(spec.name):
            record = repr((message.key, message.value, message.headers)).encode() + (message.value or b"")
            written[f"{spec.name}/{message.partition}/{message.offset}"] = record
    written |= {str(path): path.read_bytes() for path in deployment.folder.iterdir() if path.is_file()}
    assert len(written) > 1_000
    pixel = np.array([CANARY_PIXEL])
    secrets = [CANARY_KEY.encode(), str(CANARY_PIXEL).encode()]
    secrets += [pixel.astype(kind).tobytes() for kind in (np.float32, np.float64)]
    found = [(place, secret) for place, content in written.items() for secret in secrets if secret in content]
    assert found == []


def test_attacks_climb_the_ladder_honest_keys_are_left_alone_and_an_undo_holds(
    kafka_broker: str, tmp_path: Path
) -> None:
    prefix = f"live-{uuid4().hex[:8]}."
    bus = KafkaBus(kafka_broker)
    with Deployment(kafka_broker, prefix, tmp_path, revocation_failures=2, tell=print) as deployment:
        case = Case(deployment, bus)
        case.run(case.attackers, lambda client: client.refused["key_revoked"] < 3, 120)
        climbed = [one.order for one in case.attackers]
        # A worker that is far behind may find so much at once that the first rung is passed over.
        assert all(order in (LADDER, LADDER[1:]) for order in climbed), climbed
        assert climbed.count(LADDER) > len(climbed) / 2, climbed
        assert case.approved, "a finding of one family waits for a person"
        check_latency(case)
        check_undo(case)
        check_acknowledged(case)
        assert {one.name: dict(one.refused) for one in case.honest if one.refused} == {}
        check_secrets(case)
    bus.close()
