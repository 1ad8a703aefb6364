"""The emitter: one key in one partition whatever the format, nothing lost unsaid, never in the way."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from detectors.batch import format_key_reference
from sinks.records import ServingEvent
from sinks.serving.backlog import EVENT_BYTES
from sinks.serving.emitter import Emitter
from sinks.serving.event import encode_event
from streams.bus.kafka import KafkaBus
from streams.codec import decode_events
from streams.localkafka import free_port
from streams.topics import create_topics

if TYPE_CHECKING:
    from collections.abc import Iterator

KEYS, EVENTS, PARTITIONS = 200, 3000, 8


def event(number: int) -> ServingEvent:
    name = "m" if number % 500 else "é" * 128  # too long for a binary format, and fine in JSON
    return ServingEvent(
        time_ms=1_760_000_000_000 + number,
        key=format_key_reference(0, number % KEYS, 2**63 + number % KEYS),
        model=name,
        predicted_class=number,
    )


@pytest.fixture
def topic(kafka_broker: str) -> Iterator[tuple[KafkaBus, str, str]]:
    prefix = f"emit-{uuid4().hex[:8]}."
    create_topics(kafka_broker, prefix=prefix, partitions=PARTITIONS)
    bus = KafkaBus(kafka_broker)
    yield bus, kafka_broker, f"{prefix}events"
    bus.close()


@pytest.mark.kafka
def test_every_format_keeps_a_key_in_its_partition_and_its_order(topic: tuple[KafkaBus, str, str]) -> None:
    bus, kafka, name = topic
    sent = [event(number) for number in range(EVENTS)]
    for event_format in ("columns", "json"):
        emitter = Emitter(kafka, name, event_format=event_format)
        emitter.start()
        assert all(emitter.put(one) for one in sent)
        emitter.stop()
        assert (emitter.emitted, emitter.dropped) == (EVENTS, {})
        assert not emitter.put(sent[0])
        assert emitter.dropped == {"closed": 1}
    for one in sent[:KEYS]:
        bus.send(name, encode_event(one), key=one.key.encode())
    bus.flush()
    partitions: dict[int, set[int]] = defaultdict(set)
    classes: dict[int, list[int]] = defaultdict(list)
    total, records = 0, 0
    for chunk in bus.read([name]):
        records += len(chunk)
        batch, refused = decode_events(chunk, name)
        assert refused == []
        assert batch is not None
        total += len(batch)
        for key, partition, number in zip(
            batch.key[:, 0].tolist(), batch.partition.tolist(), batch.predicted_class.tolist(), strict=True
        ):
            partitions[key].add(partition)
            classes[key].append(number)
    assert total == 2 * EVENTS + KEYS
    assert records < EVENTS + KEYS + EVENTS // 4, "micro-batches"
    assert {len(found) for found in partitions.values()} == {1}
    plain = [number for number in range(EVENTS) if number % 500]
    for key, numbers in classes.items():
        once = [number for number in plain if number % KEYS == key]
        assert [number for number in numbers if number % 500][: len(once)] == once, "in order"


def test_put_never_waits_and_says_what_it_drops() -> None:
    emitter = Emitter(f"127.0.0.1:{free_port()}", "events", queued_bytes=100 * EVENT_BYTES)
    emitter.start()
    start = time.perf_counter()
    taken = sum(emitter.put(event(number)) for number in range(1000))
    assert time.perf_counter() - start < 1.0
    assert taken == len(emitter) == 100
    assert emitter.dropped == {"buffer_full": 900}
    emitter.stop()
    assert (len(emitter), emitter.dropped) == (0, {"buffer_full": 900, "closed": 100})


@pytest.mark.kafka
def test_a_forked_child_sends_its_own_events_and_not_its_parents(topic: tuple[KafkaBus, str, str]) -> None:
    bus, kafka, name = topic
    emitter = Emitter(kafka, name, event_format="json", linger_ms=2000)
    emitter.start()
    assert emitter.put(event(1))
    child = os.fork()
    if not child:
        is_fine = len(emitter) == 0 and emitter.put(event(2))
        emitter.stop()
        os._exit(0 if is_fine and emitter.emitted == 1 else 1)
    assert os.waitpid(child, 0)[1] == 0
    emitter.stop()
    assert emitter.emitted == 1
    sent = sorted(message.value or b"" for chunk in bus.read([name]) for message in chunk)
    assert sent == sorted([encode_event(event(1)), encode_event(event(2))])
