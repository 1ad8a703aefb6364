"""A worker learns that its group has shut it out."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer

from streams.errors import ModelwardenError
from streams.faustbatch.consumer import group_failure
from streams.membership import TWIN_JOINS, TWIN_WINDOW_S, Membership
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


@pytest.mark.kafka
def test_two_that_join_at_once_under_one_name_are_told(kafka_broker: str) -> None:
    prefix = f"membership-{uuid4().hex[:8]}."
    create_topics(kafka_broker, prefix=prefix, partitions=1)

    async def join() -> list[BaseException | None]:
        options = {"bootstrap_servers": kafka_broker, "group_id": prefix, "group_instance_id": "worker-0"}
        twins = [AIOKafkaConsumer(**options) for _ in range(2)]
        for twin in twins:
            await twin.start()
            assert group_failure(twin) is None
        for twin in twins:
            twin.subscribe([f"{prefix}events"])
        while all(group_failure(twin) is None for twin in twins):  # noqa: ASYNC110 - it sets no event
            await asyncio.sleep(0.05)
        failures = [group_failure(twin) for twin in twins]
        for twin in twins:
            await twin.stop()
        return failures

    failures = asyncio.run(asyncio.wait_for(join(), 60))
    (failure,) = (failure for failure in failures if failure is not None)
    with pytest.raises(ModelwardenError, match="consumer_instance_id worker-0: another worker"):
        Membership(prefix, "worker-0").check(failure)
    with pytest.raises(ModelwardenError, match=f"consumer_group {prefix}: Kafka gives this worker no part"):
        Membership(prefix, None).check(failure)
