"""What the soak sends: honest keys, as micro-batches that are made once and stamped with the time when sent.

Keys and queries are those of the simulation, each key in `CLONES` copies under references of their own, which
are at different places of its recording; at its end a key begins anew, so the same keys stay alive for ever.
Stamping costs microseconds for 512 events, so that the sender leaves the machine to the worker.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any
from zlib import crc32

import msgspec
import numpy as np
from aiokafka import AIOKafkaProducer

from sinks.records import ServingEvent
from sinks.serving.clock import now_ms
from sinks.serving.formats import COLUMNS, COLUMNS_STRUCT, FORMAT_HEADER, encode_columns
from streams.samples import load_sample
from streams.simulate import Plan, Simulation

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

PARTITIONS = 4
EVENTS = 200_000
CLONES = 16
BATCH_EVENTS = 512
"""Every message holds exactly so many events."""
KEY_BYTES, EPOCH_BYTES, TIME_BYTES = 16, 2, 8
TICK_S, READ_S = 0.01, 0.5


class Template:
    """A micro-batch to be sent under the keys of any clone, at any time."""

    def __init__(self, events: list[ServingEvent]) -> None:
        value = encode_columns(events)
        names_bytes = COLUMNS_STRUCT.unpack_from(value)[3]
        keys = COLUMNS_STRUCT.size + names_bytes
        epochs = keys + KEY_BYTES * len(events)
        times = epochs + EPOCH_BYTES * len(events)
        self._head = value[:keys]
        self._keys: NDArray[np.uint32] = np.frombuffer(value[keys:epochs], "<u4").reshape(-1, 4)
        self._epochs = value[epochs:times]
        self._tail = value[times + TIME_BYTES * len(events) :]
        self._place = np.arange(1, len(events) + 1) / len(events)

    def stamp(self, clone: int, since_ms: int, until_ms: int) -> bytes:
        """Write the message: a clone's keys, and times spread over what has passed since its last one."""
        keys = self._keys.copy()
        keys[:, 3] ^= np.uint32(clone * 0x9E3779B1 & 0xFFFFFFFF)
        return self.of_keys(keys, since_ms, until_ms)

    def of_keys(self, keys: NDArray[np.uint32], since_ms: int, until_ms: int) -> bytes:
        """Write the message under these keys (`BATCH_EVENTS`, 4)."""
        times = (since_ms + (until_ms - since_ms) * self._place).astype("<i8")
        return b"".join((self._head, keys.tobytes(), self._epochs, times.tobytes(), self._tail))


class Feed:
    """One partition's messages, for ever: the clones take turns."""

    def __init__(self, templates: list[Template]) -> None:
        self._templates = templates
        self._sent = 0
        self._last_ms: list[int] = [now_ms()] * CLONES

    def next(self) -> bytes:
        """Return the next message."""
        turn, clone = divmod(self._sent, CLONES)
        self._sent += 1
        place = (turn + clone * len(self._templates) // CLONES) % len(self._templates)
        since_ms, self._last_ms[clone] = self._last_ms[clone], now_ms()
        return self._templates[place].stamp(clone, since_ms, self._last_ms[clone])


def make_feeds() -> list[Feed]:
    """Return a feed for each partition; a key's events are all in one."""
    waiting: list[list[ServingEvent]] = [[] for _ in range(PARTITIONS)]
    decode = msgspec.json.Decoder(ServingEvent).decode
    for key, value in Simulation(Plan(events=EVENTS, attacks=()), load_sample()).events():
        waiting[crc32(key.encode()) % PARTITIONS].append(decode(value))
    return [
        Feed(
            [
                Template(events[start : start + BATCH_EVENTS])
                for start in range(0, len(events) - BATCH_EVENTS + 1, BATCH_EVENTS)
            ]
        )
        for events in waiting
    ]


async def send(address: str, topic: str, rate_file: Path) -> None:
    """Send at the rate (events a second) that the file says, for ever."""
    feeds = make_feeds()
    producer = AIOKafkaProducer(bootstrap_servers=address, acks=1, max_batch_size=2**20)
    await producer.start()
    rate, due, ticked, read = 0.0, 0.0, time.monotonic(), 0.0
    while True:
        now = time.monotonic()
        if now - read >= READ_S:
            rate, read = float(rate_file.read_text(encoding="ascii")), now  # noqa: ASYNC240 - a few bytes
        due = min(due + rate * (now - ticked), rate)
        ticked = now
        while due >= BATCH_EVENTS * PARTITIONS:
            for partition, feed in enumerate(feeds):
                await _send_one(producer, topic, partition, feed.next())
            due -= BATCH_EVENTS * PARTITIONS
        await asyncio.sleep(TICK_S)


async def _send_one(producer: Any, topic: str, partition: int, value: bytes) -> None:
    batch = producer.create_batch()
    batch.append(key=None, value=value, timestamp=None, headers=[(FORMAT_HEADER, COLUMNS)])
    batch.close()
    await producer.send_batch(batch, topic, partition=partition)
