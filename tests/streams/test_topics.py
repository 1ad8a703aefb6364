from __future__ import annotations

import json
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from click.testing import CliRunner
from kafka import KafkaAdminClient
from kafka.admin import NewTopic

from streams.cli.topics import command
from streams.localkafka import free_port
from streams.topics import TOPICS, TopicError, check_topics, create_topics

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def prefix() -> str:
    return f"topics-{uuid4().hex[:8]}."


@pytest.fixture
def admin(kafka_broker: str) -> Iterator[KafkaAdminClient]:
    client = KafkaAdminClient(bootstrap_servers=kafka_broker)
    yield client
    client.close()


@pytest.mark.kafka
def test_created_topics_pass_the_check_and_creating_again_changes_nothing(
    kafka_broker: str, prefix: str
) -> None:
    before = check_topics(kafka_broker, prefix=prefix)
    assert len(before) == len(TOPICS)
    assert all(not r.ok and "missing: run `modelwarden topics create`" in r.finding for r in before)
    created = create_topics(kafka_broker, prefix=prefix, partitions=3)
    assert all(r.ok and r.finding.startswith("created") for r in created), created
    again = create_topics(kafka_broker, prefix=prefix, partitions=3)
    assert again == check_topics(kafka_broker, prefix=prefix)
    found = {r.topic.removeprefix(prefix): r.finding for r in again if r.ok}
    assert found["state"] == "3 partitions, compact"
    assert found["events"] == "3 partitions, delete"
    assert found["policy"] == "1 partitions, compact"


@pytest.mark.kafka
def test_the_wrong_partition_count_and_cleanup_policy_are_reported(
    kafka_broker: str, prefix: str, admin: KafkaAdminClient
) -> None:
    admin.create_topics(
        [
            NewTopic(f"{prefix}events", 4, 1),
            NewTopic(f"{prefix}alerts", 2, 1),
            NewTopic(f"{prefix}state", 4, 1, topic_configs={"cleanup.policy": "delete"}),
        ]
    )
    runner = CliRunner()
    arguments = ["--kafka", kafka_broker, "--prefix", prefix]
    result = runner.invoke(command, ["create", *arguments, "--partitions", "4"])
    assert result.exit_code == 1, result.output
    wrong = {line.split()[1]: line for line in result.output.splitlines() if line.startswith("WRONG")}
    assert set(wrong) == {f"{prefix}alerts:", f"{prefix}state:"}, (result.output, result.exception)
    assert "has 2 partitions, needs 4" in wrong[f"{prefix}alerts:"]
    assert "delete the topic" in wrong[f"{prefix}alerts:"]
    assert "cleanup.policy is delete, needs compact" in wrong[f"{prefix}state:"]
    assert f"--entity-name {prefix}state --add-config cleanup.policy=compact" in wrong[f"{prefix}state:"]

    result = runner.invoke(command, ["check", *arguments, "--partitions", "5", "-o", "json"])
    assert result.exit_code == 1
    reports = json.loads(result.output)
    events = next(r for r in reports if r["topic"] == f"{prefix}events")
    assert not events["ok"]
    assert "has 4 partitions, needs 5" in events["finding"]


def test_an_unreachable_broker_is_named() -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(TopicError, match=rf"Kafka at {address}: .*Check the address"):
        check_topics(address)
