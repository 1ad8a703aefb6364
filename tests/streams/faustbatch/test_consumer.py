"""A full queue holds up its own partitions only, and no longer than it is full."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from faust.types import TP

from streams.app import build_app
from streams.faustbatch import BatchConsumer
from streams.settings import Settings

FULL, OTHER = TP("events", 0), TP("feedback", 0)


class _Asked(BatchConsumer):
    """A consumer that notes what is asked of the brokers, and for how long; there is never anything."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.asked: list[tuple[set[TP], float]] = []

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:  # noqa: ASYNC109 - Faust's signature
        self.asked.append((set(active_partitions or ()), timeout))
        return {}


def consumer_with_full_queue(assigned: set[TP]) -> _Asked:
    app = build_app(Settings())
    consumer = _Asked(
        app.transport,
        callback=app.topics.on_message,
        on_partitions_revoked=app.on_partitions_revoked,
        on_partitions_assigned=app.on_partitions_assigned,
    )
    consumer._thread.thread_loop.close()  # made at once, and never run here
    consumer.flow_active = True
    consumer._active_partitions = set(assigned)
    consumer.on_buffer_full(FULL)
    return consumer


@pytest.mark.parametrize("assigned", [{FULL, OTHER}, {FULL}])
def test_a_partition_is_asked_as_soon_as_its_queue_has_room(assigned: set[TP]) -> None:
    async def run() -> list[tuple[set[TP], float]]:
        consumer = consumer_with_full_queue(assigned)
        asyncio.get_running_loop().call_soon(consumer.on_buffer_drop, FULL)
        await consumer._wait_next_records(60.0)
        await consumer._wait_next_records(60.0)
        return consumer.asked

    assert asyncio.run(run()) == [(assigned, 0), (assigned, 60.0)]


def test_other_topics_are_asked_while_a_queue_stays_full_but_never_waited_for() -> None:
    async def run() -> list[tuple[set[TP], float]]:
        consumer = consumer_with_full_queue({FULL, OTHER})
        for _ in range(3):
            await consumer._wait_next_records(60.0)
        return consumer.asked

    assert asyncio.run(run()) == 3 * [({OTHER}, 0)]


def test_without_another_topic_nobody_is_asked_for_all_partitions() -> None:
    async def run() -> list[tuple[set[TP], float]]:
        consumer = consumer_with_full_queue({FULL})
        assert not (await consumer._wait_next_records(60.0))[0]
        return consumer.asked

    assert asyncio.run(run()) == []
