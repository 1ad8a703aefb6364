"""Fenced state on a real broker: whatever is read first and wherever it crashes, one history results."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from hashlib import blake2b
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from faust.types import TP

from sinks.policyfile import load_policy
from sinks.policytopic import PolicyInForce
from sinks.records import Command
from streams.bus.kafka import KafkaBus
from streams.faustbatch import Chunk, RecordList
from streams.metrics import Metrics
from streams.outputs import OutputWriter
from streams.pipeline import Outputs
from streams.recovery import read_to_end
from streams.settings import Settings
from streams.state import FencedState
from streams.statestore import StateStore
from streams.topics import create_topics

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from detectors.reference import ModelReference
    from streams.bus.base import Message

HISTORIES = 8
EVENTS, WORDS = 60, 8
EVERY = 3
POLICIES = (load_policy(None), msgspec.structs.replace(load_policy(None), version="other-1"))


class Ledger(msgspec.Struct):
    """What a toy pipeline knows; every output tells all of it."""

    sequence: int = 0
    events: int = 0
    words: int = 0


class LedgerPipeline:
    """Every third event and every word makes a command that tells how much came before it."""

    def __init__(self, _settings: Settings) -> None:
        self.ledger = Ledger()
        self.policy = PolicyInForce(policy=POLICIES[0])
        self.stored: dict[str, bytes] = {}

    def process(self, messages: Sequence[Message]) -> Outputs:
        commands = []
        for message in messages:
            self.ledger.events += 1
            if self.ledger.events % EVERY == 0:
                commands.append(self.command(message))
        return Outputs(commands=commands, events=len(messages))

    def word(self, message: Message) -> Outputs:
        self.ledger.words += 1
        return Outputs(commands=[self.command(message)])

    def command(self, message: Message) -> Command:
        self.ledger.sequence += 1
        place = f"{message.topic}/{message.partition}/{message.offset}/{self.policy.policy_version}"
        return Command(
            command_id=blake2b(place.encode(), digest_size=16).hexdigest(),
            action="watch",
            key="k0-" + "0" * 32,
            issued_ms=message.offset,
            expires_ms=0,
            rule=message.topic,
            policy_version=self.policy.policy_version,
            alert_id="0" * 32,
            reason=msgspec.json.encode(self.ledger).decode(),
            sequence=self.ledger.sequence,
        )

    def begin(self, policy: PolicyInForce) -> None:
        self.policy = policy

    def set_policy(self, policy: PolicyInForce) -> Outputs:
        self.policy = policy
        return Outputs()

    def set_place(self, partition: int, partitions: int) -> None:
        """Take no notice."""

    part_names = frozenset(Ledger.__struct_fields__)

    def dump_parts(self, *, changed_only: bool) -> dict[str, bytes]:
        fresh = {name: b"%d" % getattr(self.ledger, name) for name in Ledger.__struct_fields__}
        stored, self.stored = self.stored, fresh
        return {name: part for name, part in fresh.items() if not changed_only or stored.get(name) != part}

    def learned(self) -> list[ModelReference]:
        return []

    def restore_parts(self, parts: dict[str, bytes]) -> None:
        assert set(parts) == self.part_names
        self.ledger = Ledger(**{name: int(part) for name, part in parts.items()})


def take_events(pipeline: Any, messages: Sequence[Message]) -> Iterator[Outputs]:
    yield pipeline.process(messages)


def take_words(pipeline: Any, messages: Sequence[Message]) -> Iterator[Outputs]:
    for message in messages:
        yield pipeline.word(message)


class History:
    """One partition's worker, with crashes."""

    def __init__(self, settings: Settings, partition: int, seed: int) -> None:
        self.settings = settings
        self.partition = partition
        self.draw = random.Random(seed)  # noqa: S311 - an order of things, not a secret
        self.generation = 0
        self.policy = POLICIES[0]
        self.records: dict[str, list[Any]] = {}

    async def load(self) -> None:
        for topic in ("events", "feedback"):
            place = (self.settings.topic(topic), self.partition)
            self.records[topic] = [r async for r in read_to_end(self.settings.kafka, {place: 0})]

    async def run(self) -> None:
        await self.load()
        await self.start()
        for _ in range(60):
            await self.do(
                self.draw.choice(("events", "events", "words", "policy", "snapshot", "crash", "cut"))
            )
        while self.next["events"] < EVENTS or self.next["feedback"] < WORDS:
            await self.deliver("events")
            await self.deliver("feedback")
        await self.state.snapshot_all()
        await self.stop()

    async def stop(self) -> None:
        await self.writer.stop()
        await self.store.stop()

    async def start(self) -> None:
        self.writer = OutputWriter(self.settings)
        await self.writer.start()
        self.store = StateStore(self.settings)
        await self.store.start()
        self.state = FencedState(self.settings, LedgerPipeline, self.writer, self.store, Metrics())  # type: ignore[arg-type] # a toy
        self.generation += 1
        self.state.set_policy(PolicyInForce(policy=self.policy))
        await self.state.assign([self.partition], self.generation)
        positions = self.state.positions()
        self.next = {
            name: positions[TP(self.settings.topic(name), self.partition)] for name in ("events", "feedback")
        }

    async def do(self, what: str) -> None:
        if what == "events":
            await self.deliver("events")
        elif what == "words":
            await self.deliver("feedback")
        elif what == "policy":
            self.policy = self.draw.choice(POLICIES)
            self.state.set_policy(PolicyInForce(policy=self.policy))
        elif what == "snapshot":
            await self.state.snapshot_all()
        elif what == "crash":
            await self.stop()
            await self.start()
        else:
            await self.cut_snapshot()

    async def deliver(self, name: str) -> None:
        start = self.next[name]
        records = self.records[name][start : start + self.draw.randint(1, 5)]
        if not records:
            return
        self.next[name] += len(records)
        chunk = Chunk(TP(self.settings.topic(name), self.partition), RecordList(records), 0)
        if name == "events":
            await self.state.apply(chunk, take_events)
        else:
            self.state.hold(chunk, take_words)

    async def cut_snapshot(self) -> None:
        """Crash when the snapshot is durable and what it held is not written."""

        async def die(*_arguments: Any) -> list[Any]:
            raise InterruptedError

        self.writer.publish = die  # type: ignore[method-assign,assignment] # where the crash falls
        with suppress(InterruptedError):
            await self.state.snapshot_all()
        await self.stop()
        await self.start()


def check_history(commands: list[Command], settings: Settings) -> None:
    """The commands tell one history: nothing twice, nothing left out, nothing that contradicts another."""
    assert [command.sequence for command in commands] == list(range(1, len(commands) + 1))
    told = [msgspec.json.decode(command.reason, type=Ledger) for command in commands]
    for before, after in pairwise(told):
        assert before.events <= after.events
        assert before.words <= after.words
    offsets = {
        name: [command.issued_ms for command in commands if command.rule == settings.topic(name)]
        for name in ("events", "feedback")
    }
    assert offsets["events"] == list(range(EVERY - 1, EVENTS, EVERY))
    assert offsets["feedback"] == list(range(WORDS))


@pytest.mark.kafka
def test_feedback_policies_and_crashes_make_one_history(kafka_broker: str) -> None:
    settings = Settings(kafka=kafka_broker, topic_prefix=f"state-{uuid4().hex[:8]}.")
    create_topics(kafka_broker, prefix=settings.topic_prefix, partitions=HISTORIES)
    bus = KafkaBus(kafka_broker)
    for partition in range(HISTORIES):
        for name, count in (("events", EVENTS), ("feedback", WORDS)):
            for number in range(count):
                bus.send(settings.topic(name), b"%d" % number, key=b"k", partition=partition)
    bus.flush()

    async def run_all() -> None:
        await asyncio.gather(*[History(settings, p, seed=p).run() for p in range(HISTORIES)])

    asyncio.run(run_all())
    written: dict[int, list[Command]] = {partition: [] for partition in range(HISTORIES)}
    for chunk in bus.read([settings.topic("commands")]):
        written[chunk[0].partition] += [msgspec.json.decode(m.value or b"", type=Command) for m in chunk]
    bus.close()
    for commands in written.values():
        check_history(commands, settings)
    assert len({command.policy_version for found in written.values() for command in found}) == len(POLICIES)


@pytest.mark.kafka
def test_an_offset_that_a_superseded_worker_committed_is_not_believed(kafka_broker: str) -> None:
    """Found by `python -m tests.faults --seed 21`: a network cut while the first snapshots were made.

    The old owner stores and commits events after the new one has begun from nothing; then only the new one's
    snapshot, without any event in it, counts, and all events must be read again.
    """
    settings = Settings(
        kafka=kafka_broker, topic_prefix=f"state-{uuid4().hex[:8]}.", consumer_group=uuid4().hex
    )
    create_topics(kafka_broker, prefix=settings.topic_prefix, partitions=1)
    bus = KafkaBus(kafka_broker)
    for name in ("events", "feedback"):
        for number in range(10):
            bus.send(settings.topic(name), b"%d" % number, key=b"k", partition=0)
    bus.flush()
    bus.close()

    async def scenario() -> int:
        old, new, third = (History(settings, 0, seed) for seed in range(3))
        for generation, history in enumerate((old, new), 1):
            history.generation = generation - 1
            await history.load()
            await history.start()
        await old.deliver("events")
        await old.state.snapshot_all()
        await commit(settings, old.state.committable(TP(settings.topic("events"), 0)) or 0)
        await new.deliver("feedback")
        await new.state.snapshot_all()
        third.generation = 2
        await third.start()
        for history in (old, new, third):
            await history.stop()
        return third.next["events"]

    assert asyncio.run(scenario()) == 0


async def commit(settings: Settings, offset: int) -> None:
    """Commit as a member of the group that has lost its place does, or an operator."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka, group_id=settings.consumer_group, enable_auto_commit=False
    )
    await consumer.start()
    place = TopicPartition(settings.topic("events"), 0)
    consumer.assign([place])
    await consumer.commit({place: offset})
    await consumer.stop()
    assert offset > 0
