"""The events of the benchmark, in every format, written to a broker once."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from aiokafka import AIOKafkaProducer
from kafka.partitioner.default import murmur2

from detectors.batch import format_key_reference
from sinks.serving.event import encode_event
from sinks.serving.formats import COLUMNS, FORMAT_HEADER, RECORD, encode_columns, encode_record
from streams.samples import load_sample
from streams.topics import create_topics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sinks.records import ServingEvent

PARTITIONS = 8
KEYS, ZIPF = 100_000, 1.2
START_MS = 1_760_000_000_000
EVENTS_PER_MS = 100
"""Of the events' own time, which runs about as fast as a worker that keeps up with them."""
BATCH_BYTES = 64 * 1024
MICRO_BATCH = 512
FORMATS = ("json", "record", "columns")
DISTINCT = 40_000
"""Events that are made; they are sent again and again, later and by other keys."""

Message = tuple[int, bytes | None, bytes]
"""Partition, key, value."""


def make_events() -> list[ServingEvent]:
    """Take recorded queries of the sample, honest ones, in a mixed order."""
    draw = random.Random(7)  # noqa: S311 - traffic, not secrets
    events = [event for trace in load_sample() if trace.attack is None for event in trace.events()]
    return draw.choices(events, k=DISTINCT)


def keyed(count: int) -> Iterator[tuple[int, ServingEvent]]:
    """Yield events with a partition: keys with a heavy tail."""
    draw = np.random.default_rng(8)
    events = make_events()
    keys = [format_key_reference(0, key * 0x9E3779B97F4A7C15 % 2**64, key) for key in range(KEYS)]
    places = [(murmur2(key.encode()) & 0x7FFFFFFF) % PARTITIONS for key in keys]
    drawn = np.minimum(draw.zipf(ZIPF, count), KEYS) - 1
    for number, key in enumerate(drawn.tolist()):
        event = msgspec.structs.replace(
            events[number % DISTINCT], key=keys[key], time_ms=START_MS + number // EVENTS_PER_MS
        )
        yield places[key], event


def messages(count: int, event_format: str) -> Iterator[Message]:
    """Yield the messages of so many events."""
    if event_format != "columns":
        write = encode_event if event_format == "json" else encode_record
        yield from ((partition, event.key.encode(), write(event)) for partition, event in keyed(count))
        return
    waiting: list[list[ServingEvent]] = [[] for _ in range(PARTITIONS)]
    for partition, event in keyed(count):
        waiting[partition].append(event)
        if len(waiting[partition]) == MICRO_BATCH:
            yield partition, None, encode_columns(waiting[partition])
            waiting[partition] = []
    yield from (
        (partition, None, encode_columns(events)) for partition, events in enumerate(waiting) if events
    )


async def fill(brokers: str, prefix: str, event_format: str, count: int) -> None:
    """Make the topics with a prefix and write the events."""
    create_topics(brokers, prefix=prefix, partitions=PARTITIONS)
    headers = {"json": [], "record": [(FORMAT_HEADER, RECORD)], "columns": [(FORMAT_HEADER, COLUMNS)]}
    producer = AIOKafkaProducer(
        bootstrap_servers=brokers, max_batch_size=4 * BATCH_BYTES, acks=1, max_request_size=2**22
    )
    await producer.start()
    try:
        topic, batches, sizes = (
            f"{prefix}events",
            [producer.create_batch() for _ in range(PARTITIONS)],
            [0] * PARTITIONS,
        )
        for partition, key, value in messages(count, event_format):
            if sizes[partition] + len(value) > BATCH_BYTES and sizes[partition]:
                await producer.send_batch(batches[partition], topic, partition=partition)
                batches[partition], sizes[partition] = producer.create_batch(), 0
            batches[partition].append(key=key, value=value, timestamp=None, headers=headers[event_format])
            sizes[partition] += len(value)
        for partition, batch in enumerate(batches):
            if sizes[partition]:
                await producer.send_batch(batch, topic, partition=partition)
        await producer.flush()
    finally:
        await producer.stop()


def fill_topics(brokers: str, prefix: str, event_format: str, count: int) -> None:
    """Do as `fill`, from a program that is not asynchronous."""
    asyncio.run(fill(brokers, prefix, event_format, count))
