"""Reading topics from a place to their end, outside any group: how a worker finds its state again."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from typing import TYPE_CHECKING, Any, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition

from sinks.kafkasecurity import PLAINTEXT, KafkaSecurity

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from aiokafka.structs import ConsumerRecord

Result = TypeVar("Result")

_POLL_MS = 500
_FETCH_BYTES = 4 * 1024 * 1024
_SKIP_RECORDS = 8
"""A gap of so many records is worth a fetch of its own: pieces of state are large."""


async def read_to_end(
    bootstrap: str, starts: Mapping[tuple[str, int], int], *, security: KafkaSecurity = PLAINTEXT
) -> AsyncIterator[ConsumerRecord]:
    """Yield every record of the places (topic, partition) from its start to the end as it stands now.

    A start before the oldest record means the oldest. Ends are found by position, not by counting records:
    compaction and transactions leave gaps.

    Raises
    ------
    KafkaError
        If the brokers cannot be reached.
    """
    if not starts:
        return
    consumer = open_reader(bootstrap, security=security)
    await consumer.start()
    try:
        places = {TopicPartition(*place): offset for place, offset in starts.items()}
        consumer.assign(list(places))
        begin = await consumer.beginning_offsets(list(places))
        end = await consumer.end_offsets(list(places))
        for place, offset in places.items():
            consumer.seek(place, max(offset, begin[place]))
        behind = [place for place, offset in places.items() if max(offset, begin[place]) < end[place]]
        while behind:
            for place, records in (await consumer.getmany(*behind, timeout_ms=_POLL_MS)).items():
                for record in records:
                    if record.offset < end[place]:
                        yield record
            behind = [place for place in behind if await consumer.position(place) < end[place]]
    finally:
        await consumer.stop()


async def read_offsets(
    bootstrap: str, place: tuple[str, int], offsets: Sequence[int], *, security: KafkaSecurity = PLAINTEXT
) -> AsyncIterator[ConsumerRecord]:
    """Yield the records of one place (topic, partition) at rising offsets, those that are there still.

    What lies between is skipped, not read, where it is much. Checksums are the caller's affair.

    Raises
    ------
    KafkaError
        If the brokers cannot be reached.
    """
    reader = open_reader(bootstrap, security=security, check_crcs=False)
    await reader.start()
    try:
        at = TopicPartition(*place)
        reader.assign([at])
        begin, end = (await reader.beginning_offsets([at]))[at], (await reader.end_offsets([at]))[at]
        wanted = [offset for offset in offsets if begin <= offset < end]
        following = 0
        position = -_SKIP_RECORDS
        while following < len(wanted):
            if wanted[following] - position >= _SKIP_RECORDS:
                reader.seek(at, wanted[following])
            for record in (await reader.getmany(at, timeout_ms=_POLL_MS)).get(at, ()):
                following = bisect_left(wanted, record.offset, following)
                if following < len(wanted) and wanted[following] == record.offset:
                    yield record
            position = await reader.position(at)
            following = bisect_left(wanted, position, following)
    finally:
        await reader.stop()


async def log_bounds(
    bootstrap: str, places: list[tuple[str, int]], *, security: KafkaSecurity = PLAINTEXT
) -> dict[tuple[str, int], tuple[int, int]]:
    """Return, by place, the oldest offset still there and the offset the next record will get.

    Raises
    ------
    KafkaError
        If the brokers cannot be reached.
    """
    consumer = open_reader(bootstrap, security=security)
    await consumer.start()
    try:
        wanted = [TopicPartition(*place) for place in places]
        begin, end = await consumer.beginning_offsets(wanted), await consumer.end_offsets(wanted)
        return {(place.topic, place.partition): (begin[place], end[place]) for place in wanted}
    finally:
        await consumer.stop()


async def count_partitions(bootstrap: str, topic: str, *, security: KafkaSecurity = PLAINTEXT) -> int:
    """Return how many partitions a topic has; 1 if it is not known. Raises KafkaError."""
    consumer = open_reader(bootstrap, security=security)
    await consumer.start()
    try:
        consumer.subscribe([topic])
        await consumer.topics()
        return len(consumer.partitions_for_topic(topic) or {0})
    finally:
        await consumer.stop()


async def committed_offsets(
    bootstrap: str, group: str, places: list[tuple[str, int]], *, security: KafkaSecurity = PLAINTEXT
) -> dict[tuple[str, int], int | None]:
    """Return, by place, the next offset that a group will read, or None where it committed nothing.

    Raises
    ------
    KafkaError
        If the brokers cannot be reached.
    """
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=group,
        enable_auto_commit=False,
        **security.client_arguments(),
    )
    await consumer.start()
    try:
        return {place: await consumer.committed(TopicPartition(*place)) for place in places}
    finally:
        await consumer.stop()


def open_reader(bootstrap: str, *, security: KafkaSecurity = PLAINTEXT, check_crcs: bool = True) -> Any:
    """Return an aiokafka consumer without a group, not yet started."""
    return AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=_FETCH_BYTES,
        check_crcs=check_crcs,
        **security.client_arguments(),
    )


async def run_few(jobs: Sequence[Callable[[], Awaitable[Result]]], at_once: int) -> list[Result]:
    """Run jobs, at most so many at once, and return their results in order; the first error ends all."""
    limit = asyncio.Semaphore(at_once)

    async def run(job: Callable[[], Awaitable[Result]]) -> Result:
        async with limit:
            return await job()

    tasks = [asyncio.create_task(run(job)) for job in jobs]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
