"""Reading topics from a place to their end, outside any group: how a worker finds its state again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaConsumer, TopicPartition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from aiokafka.structs import ConsumerRecord

_POLL_MS = 500
_FETCH_BYTES = 4 * 1024 * 1024


async def read_to_end(bootstrap: str, starts: Mapping[tuple[str, int], int]) -> AsyncIterator[ConsumerRecord]:
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
    consumer = open_reader(bootstrap)
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


async def log_bounds(bootstrap: str, places: list[tuple[str, int]]) -> dict[tuple[str, int], tuple[int, int]]:
    """Return, by place, the oldest offset still there and the offset the next record will get.

    Raises
    ------
    KafkaError
        If the brokers cannot be reached.
    """
    consumer = open_reader(bootstrap)
    await consumer.start()
    try:
        wanted = [TopicPartition(*place) for place in places]
        begin, end = await consumer.beginning_offsets(wanted), await consumer.end_offsets(wanted)
        return {(place.topic, place.partition): (begin[place], end[place]) for place in wanted}
    finally:
        await consumer.stop()


def open_reader(bootstrap: str) -> Any:
    """Return an aiokafka consumer without a group, not yet started."""
    return AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=_FETCH_BYTES,
    )
