"""The whole way, on real Kafka: attacks over HTTP are throttled, suspended, revoked; an undo holds."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING
from urllib.request import urlopen
from uuid import uuid4

import msgspec
import numpy as np
import pytest

from detectors.alert import Alert
from sinks.records import Command
from streams.bus.kafka import KafkaBus
from streams.live.clients import Client, run_clients
from streams.live.deployment import Deployment
from streams.live.traffic import ATTACKS, PERSONAS, load_images

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(400)]

CANARY = "sk-canary-5b1c9d2e7f"
CANARY_PIXEL = 0.123454321
LADDER = ["rate_limited", "key_suspended", "key_revoked"]
"""In the order of their first."""


def make_clients(deployment: Deployment) -> tuple[list[Client], list[Client]]:
    """Two attackers of each kind, and two honest customers of each kind, one of them with canaries."""
    images, draw = load_images(), np.random.default_rng(5)
    images[:, 0] = CANARY_PIXEL  # a corner that is empty in every digit

    def client(name: str, number: int, questions: object, *, is_attacker: bool) -> Client:
        key = f"{CANARY}-{name}-{number}"
        return Client(
            name=name,
            api_key=key,
            reference=deployment.reference(key),
            is_attacker=is_attacker,
            questions=questions,  # type: ignore[arg-type]
            wait_s=0.01 if is_attacker else 0.1,
        )

    attackers = [
        client(name, number, make(images, draw), is_attacker=True)
        for name, make in ATTACKS.items()
        for number in range(2)
    ]
    honest = [
        client(name, number, make(images, draw), is_attacker=False)
        for name, make in PERSONAS.items()
        for number in range(2)
    ]
    return attackers, honest


async def attack(deployment: Deployment, attackers: list[Client], honest: list[Client]) -> None:
    """Run everybody until every attacker's key is revoked."""
    stop = asyncio.Event()
    for attacker in attackers:
        attacker.goes_on = lambda client: "key_revoked" not in client.refused
    background = asyncio.create_task(run_clients(honest, deployment.server_url, stop))
    try:
        await asyncio.wait_for(run_clients(attackers, deployment.server_url, stop), 120)
    finally:
        stop.set()
        await background


def read(bus: KafkaBus, deployment: Deployment, topic: str) -> list[bytes]:
    return [m.value or b"" for part in bus.read([deployment.prefix + topic]) for m in part]


def revoked(deployment: Deployment) -> set[str]:
    with urlopen(f"{deployment.store_url}/revoked") as answer:
        return set(json.load(answer)["revoked"])


def test_attacks_climb_the_ladder_honest_keys_are_left_alone_and_an_undo_holds(
    kafka_broker: str, tmp_path: Path
) -> None:
    prefix = f"live-{uuid4().hex[:8]}."
    bus = KafkaBus(kafka_broker)
    with Deployment(kafka_broker, prefix, tmp_path, revocation_failures=2, tell=print) as deployment:
        attackers, honest = make_clients(deployment)
        try:
            asyncio.run(attack(deployment, attackers, honest))
        finally:
            for one in (*attackers, *honest):
                print(one.name, one.reference[:10], one.answered, dict(one.refused), one.order)
            for value in read(bus, deployment, "alerts"):
                a = msgspec.json.decode(value, type=Alert)
                print(a.key[:10], a.level, a.query_count, a.families)
            for value in read(bus, deployment, "commands"):
                c = msgspec.json.decode(value, type=Command)
                print(c.key[:10], c.action, c.issued_ms, c.expires_ms)
        assert {one.name: dict(one.refused) for one in honest if one.refused} == {}
        assert [one.order for one in attackers] == [LADDER] * len(attackers)
    bus.close()
