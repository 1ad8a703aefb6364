"""One suite for every bus: what holds in memory holds on Kafka."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from kafka import KafkaAdminClient
from kafka.admin import NewTopic

from streams.bus.base import Bus, BusError, Message
from streams.bus.kafka import KafkaBus
from streams.bus.memory import MemoryBus
from streams.localkafka import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

PARTITIONS = 4


@pytest.fixture
def topic() -> str:
    return f"contract-{uuid4().hex[:8]}"


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def bus(request: pytest.FixtureRequest, topic: str) -> Iterator[Bus]:
    made: Bus
    if request.param == "memory":
        made = MemoryBus({topic: PARTITIONS, f"{topic}-other": 1})
    else:
        address = request.getfixturevalue("kafka_broker")
        admin = KafkaAdminClient(bootstrap_servers=address)
        admin.create_topics([NewTopic(topic, PARTITIONS, 1), NewTopic(f"{topic}-other", 1, 1)])
        admin.close()
        made = KafkaBus(address)
    yield made
    made.close()


def read_all(bus: Bus, topic: str, **options: object) -> list[Message]:
    return [m for chunk in bus.read([topic], **options) for m in chunk]  # type: ignore[arg-type]


def test_what_was_sent_is_read_whole_and_in_order(bus: Bus, topic: str) -> None:
    headers = (("format", b"json"), ("format", b"twice"))
    sent = [(b"k%d" % (i % 7), b"v%d" % i) for i in range(300)]
    for i, (key, value) in enumerate(sent):
        bus.send(topic, value, key=key, headers=headers, time_ms=1_700_000_000_000 + i)
    bus.flush()
    got = read_all(bus, topic)
    assert sorted((m.key or b"", m.value or b"") for m in got) == sorted(sent)
    for key in {key for key, _ in sent}:
        mine = [m for m in got if m.key == key]
        assert len({m.partition for m in mine}) == 1, "records of one key stay together"
        assert [m.value for m in mine] == [value for k, value in sent if k == key]
    for partition in range(PARTITIONS):
        offsets = [m.offset for m in got if m.partition == partition]
        assert offsets == list(range(len(offsets)))
    assert {m.headers for m in got} == {headers}
    assert {m.time_ms - 1_700_000_000_000 for m in got} == set(range(300))


def test_a_chosen_partition_and_a_tombstone(bus: Bus, topic: str) -> None:
    bus.send(topic, None, key=b"gone", partition=3)
    bus.flush()
    (message,) = read_all(bus, topic)
    assert (message.partition, message.key, message.value) == (3, b"gone", None)
    assert bus.end_offsets(topic) == {0: 0, 1: 0, 2: 0, 3: 1}
    assert bus.partition_count(topic) == PARTITIONS


def test_reading_ends_where_the_topic_stood_at_the_call(bus: Bus, topic: str) -> None:
    for i in range(10):
        bus.send(topic, b"early%d" % i, partition=i % 2)
    bus.flush()
    reading = bus.read([topic], max_records=3)
    bus.send(topic, b"late", partition=0)
    bus.flush()
    chunks = list(reading)
    assert sorted(m.value or b"" for c in chunks for m in c) == [b"early%d" % i for i in range(10)]
    assert max(map(len, chunks)) <= 3


def test_reading_starts_where_told(bus: Bus, topic: str) -> None:
    for i in range(10):
        bus.send(topic, b"%d" % i, partition=i % 2)
    bus.flush()
    got = read_all(bus, topic, start={(topic, 0): 3, (topic, 1): 5})
    assert [m.value for m in got] == [b"6", b"8"]


def test_following_sees_what_comes_and_stops_when_idle(bus: Bus, topic: str) -> None:
    seen: list[bytes | None] = []
    empty = 0
    started = time.monotonic()
    for chunk in bus.read([topic, f"{topic}-other"], follow=True, idle_s=2.5):
        seen += [m.value for m in chunk]
        empty += not chunk
        if empty == 1 and not seen:
            bus.send(f"{topic}-other", b"came later")
            bus.flush()
    assert seen == [b"came later"]
    assert empty >= 2, "an empty list at least once a second, so that the caller may stop"
    assert time.monotonic() - started < 8


def test_an_unknown_topic_or_partition_is_refused_by_name(bus: Bus, topic: str) -> None:
    with pytest.raises(BusError, match="topic nowhere does not exist"):
        bus.partition_count("nowhere")
    with pytest.raises(BusError, match="nowhere"):
        bus.send("nowhere", b"x")
    with pytest.raises(BusError, match="nowhere"):
        bus.read(["nowhere"])
    with pytest.raises(BusError, match="no partition 9: it has 4"):
        bus.send(topic, b"x", partition=9)


def test_closing_twice_is_harmless(bus: Bus, topic: str) -> None:
    bus.send(topic, b"x", key=b"k", partition=0)
    bus.flush()
    stored = bus.end_offsets(topic)[0]
    bus.close()
    bus.close()
    assert stored == 1


def test_an_unreachable_broker_is_named_within_the_timeout() -> None:
    address = f"127.0.0.1:{free_port()}"
    bus = KafkaBus(address, timeout_s=2)
    started = time.monotonic()
    with pytest.raises(BusError, match=rf"{address}.*check the address"):
        bus.partition_count("events")
    assert time.monotonic() - started < 6


def test_a_time_is_found_as_the_offset_of_the_first_record_at_or_after_it(bus: Bus, topic: str) -> None:
    for number in range(5):
        bus.send(topic, b"v", partition=1, time_ms=1_700_000_000_000 + 1000 * number)
    bus.flush()
    assert bus.offsets_at(topic, 1_700_000_001_001)[1] == 2
    assert bus.offsets_at(topic, 1_700_000_002_000)[1] == 2
    assert bus.offsets_at(topic, 0) == {0: 0, 1: 0, 2: 0, 3: 0}
    assert bus.offsets_at(topic, 1_700_000_009_000) == {0: 0, 1: 5, 2: 0, 3: 0}
