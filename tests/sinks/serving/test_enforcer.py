"""The enforcer on a real broker: catches up, follows, acknowledges, and starts again where it was."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import uuid4

import msgspec
import pytest
from signed import KEY, SIGNER, TRUSTED, make_command

from sinks.serving.clock import now_ms
from sinks.serving.commands import CommandTable
from sinks.serving.enforcer import Enforcer
from streams.bus.kafka import KafkaBus
from streams.topics import create_topics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sinks.records import Acknowledgement

HOUR_MS = 3_600_000


@dataclass
class Place:
    """The commands topic of a deployment of its own, and the enforcers that follow it."""

    kafka: str
    prefix: str
    bus: KafkaBus
    acks: list[Acknowledgement] = field(default_factory=list)
    started: list[Enforcer] = field(default_factory=list)

    def enforcer(self, **options: object) -> Enforcer:
        made = Enforcer(
            CommandTable(TRUSTED),
            kafka=self.kafka,
            topics=(f"{self.prefix}commands", f"{self.prefix}allowlist"),
            name="serving-0",
            acknowledge=self.acks.append,
            **options,  # type: ignore[arg-type]
        )
        self.started.append(made)
        made.start()
        return made

    def send(self, value: bytes, key: bytes = KEY.encode() + b"/digits") -> None:
        self.bus.send(f"{self.prefix}commands", value, key=key)
        self.bus.flush()

    def command(self, **fields: object) -> bytes:
        now = now_ms()
        fields = {"issued_ms": now, "expires_ms": now + HOUR_MS} | fields
        return msgspec.json.encode(SIGNER.sign(make_command(**fields)))


def wait(what: Callable[[], bool], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def place(kafka_broker: str) -> Iterator[Place]:
    prefix = f"enforcer-{uuid4().hex[:8]}."
    create_topics(kafka_broker, prefix=prefix, partitions=2)
    made = Place(kafka_broker, prefix, KafkaBus(kafka_broker))
    yield made
    for enforcer in made.started:
        enforcer.stop()
    made.bus.close()


@pytest.mark.kafka
def test_commands_are_followed_acknowledged_and_still_stand_after_a_restart(place: Place) -> None:
    first = place.enforcer()
    assert first.follower.wait_until_ready(20)
    place.send(place.command())
    wait(lambda: bool(first.lookup(KEY, "digits")))
    place.send(place.command(sequence=2, action="throttle", parameters={"requests_per_minute": 6.0}))
    wait(lambda: [s.action for s in first.lookup(KEY, "digits")] == ["throttle"])
    place.send(b"nonsense")
    place.send(place.command(sequence=1, command_id="d" * 32))
    wait(lambda: first.counts["replayed"] == 1)
    assert first.counts == Counter(enforced=2, lifted=1, malformed=1, replayed=1)
    assert [(a.outcome, a.command_id[-1], a.reason is None) for a in place.acks] == [
        ("enforced", "1", True),
        ("enforced", "2", True),
        ("lifted", "1", False),
        ("refused", "d", False),
    ]
    first.stop()
    second = place.enforcer()
    assert second.follower.wait_until_ready(20)
    assert [s.action for s in second.lookup(KEY, "digits")] == ["throttle"]
    place.send(place.command(sequence=3, action="restore"))
    wait(lambda: not second.lookup(KEY, "digits"))


@pytest.mark.kafka
def test_a_command_ends_by_itself_and_says_so(place: Place) -> None:
    enforcer = place.enforcer()
    assert enforcer.follower.wait_until_ready(20)
    place.send(place.command(expires_ms=now_ms() + 1_500))
    wait(lambda: bool(enforcer.lookup(KEY, "digits")))
    wait(lambda: not enforcer.lookup(KEY, "digits"))
    wait(lambda: [a.outcome for a in place.acks] == ["enforced", "lifted"])


def test_without_brokers_what_stands_is_kept_and_what_may_lapse_lapses() -> None:
    acks: list[Acknowledgement] = []
    table = CommandTable(TRUSTED)
    enforcer = Enforcer(
        table,
        kafka="127.0.0.1:1",
        topics=("commands", "allowlist"),
        name="serving-0",
        acknowledge=acks.append,
        fail_open={"throttle"},
        stale_s=0.01,
    )
    now = now_ms()
    for sequence, action, parameters in (
        (1, "throttle", {"requests_per_minute": 6.0}),
        (2, "suspend", {}),
    ):
        command = make_command(
            sequence=sequence,
            action=action,
            parameters=parameters,
            issued_ms=now,
            expires_ms=now + HOUR_MS,
            model=None if sequence == 1 else "digits",
        )
        table.apply(msgspec.json.encode(SIGNER.sign(command)), now)
    assert [s.action for s in enforcer.lookup(KEY, "digits")] == ["suspend", "throttle"]
    enforcer.start()
    try:
        wait(lambda: [s.action for s in enforcer.lookup(KEY, "digits")] == ["suspend"])
        assert not enforcer.is_ready
        assert enforcer.is_stale
    finally:
        enforcer.stop()
    assert enforcer.follower.failures >= 1
