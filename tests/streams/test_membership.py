"""A worker learns that its group has shut it out."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, UnknownError

from streams.app import build_app
from streams.errors import ModelwardenError
from streams.faustbatch.consumer import group_failure
from streams.membership import TWIN_JOINS, TWIN_WINDOW_S, Membership
from streams.settings import Settings
from streams.topics import create_topics


def test_a_worker_that_is_pushed_out_again_and_again_has_a_twin() -> None:
    membership = Membership("g", "worker-0")
    for number in range(TWIN_JOINS - 1):
        membership.joined(7, number)
    with pytest.raises(ModelwardenError, match="consumer_instance_id worker-0: another worker"):
        membership.joined(7, TWIN_JOINS)


@pytest.mark.parametrize(
    ("instance_id", "generations", "step_s"),
    [(None, 1, 1.0), ("worker-0", TWIN_JOINS, 1.0), ("worker-0", 1, TWIN_WINDOW_S)],
    ids=["no id of its own", "every time a new generation", "rarely"],
)
def test_other_joins_are_no_reason_to_stop(instance_id: str | None, generations: int, step_s: float) -> None:
    membership = Membership("g", instance_id)
    for number in range(TWIN_JOINS * 2):
        membership.joined(number % generations, number * step_s)
        membership.check(None)


def test_a_refusal_that_aiokafka_does_not_know_is_a_twin_to_who_has_an_instance_id() -> None:
    """FENCED_INSTANCE_ID, as aiokafka gives it on; test_worker.py has two real workers of one name."""
    failure = KafkaError(repr(UnknownError()))
    with pytest.raises(ModelwardenError, match="consumer_instance_id worker-0: another worker"):
        Membership("g", "worker-0").check(failure)
    with pytest.raises(ModelwardenError, match="consumer_group g: Kafka gives this worker no part"):
        Membership("g", None).check(failure)


@pytest.mark.kafka
def test_a_consumer_that_its_group_refuses_is_found_out(kafka_broker: str) -> None:
    prefix = f"membership-{uuid4().hex[:8]}."
    create_topics(kafka_broker, prefix=prefix, partitions=1)

    async def join() -> BaseException | None:
        too_short_ms = 1000  # the broker's group.min.session.timeout.ms is 6000
        consumer = AIOKafkaConsumer(
            bootstrap_servers=kafka_broker,
            group_id=prefix,
            session_timeout_ms=too_short_ms,
            heartbeat_interval_ms=too_short_ms // 3,
        )
        assert group_failure(consumer) is None
        await consumer.start()
        assert group_failure(consumer) is None
        consumer.subscribe([f"{prefix}events"])
        while (failure := group_failure(consumer)) is None:  # noqa: ASYNC110 - it sets no event
            await asyncio.sleep(0.05)
        await consumer.stop()
        return failure

    failure = asyncio.run(asyncio.wait_for(join(), 60))
    with pytest.raises(ModelwardenError, match=f"consumer_group {prefix}: .*InvalidSessionTimeout"):
        Membership(prefix, "worker-0").check(failure)


@pytest.mark.kafka
def test_topics_that_the_broker_left_out_are_taken_up_soon(kafka_broker: str) -> None:
    prefix = f"membership-{uuid4().hex[:8]}."
    age_ms = build_app(Settings(kafka=kafka_broker)).conf.consumer_metadata_max_age_ms

    async def join() -> set[TopicPartition]:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=kafka_broker, group_id=prefix, metadata_max_age_ms=age_ms
        )
        await consumer.start()
        consumer.subscribe([f"{prefix}events"])
        while consumer._coordinator.generation < 1:  # noqa: ASYNC110 - it sets no event
            await asyncio.sleep(0.05)
        await asyncio.to_thread(create_topics, kafka_broker, prefix=prefix, partitions=1)
        while not (mine := consumer.assignment()):  # noqa: ASYNC110 - same
            await asyncio.sleep(0.05)
        await consumer.stop()
        return set(mine)

    assert asyncio.run(asyncio.wait_for(join(), 60)) == {TopicPartition(f"{prefix}events", 0)}
