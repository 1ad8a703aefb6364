"""What others take: each does as little as a per-key count, or nothing.

Run by the interpreter of the bench environment (`make bench` sets it up), which has none of our dependencies
but aiokafka and Faust. Usage: others.py CASE BROKERS TOPIC EVENTS
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

sys.path.insert(0, str(Path(__file__).parent))
from meter import Meter

FETCH_BYTES = 4 * 1024 * 1024
PARTITIONS = 8


def aiokafka(brokers: str, topic: str, meter: Meter) -> None:
    """Take records with getmany and do nothing with them."""
    from aiokafka import AIOKafkaConsumer, TopicPartition

    async def run() -> None:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=brokers, max_partition_fetch_bytes=FETCH_BYTES, enable_auto_commit=False
        )
        await consumer.start()
        places = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        while True:
            for records in (await consumer.getmany(timeout_ms=1000)).values():
                meter.end(len(records))

    asyncio.run(run())


def confluent(brokers: str, topic: str, meter: Meter) -> None:
    """Count by key with confluent-kafka, tuned: at its defaults it sleeps when its queue is full."""
    from confluent_kafka import Consumer

    consumer = Consumer(
        {
            "bootstrap.servers": brokers,
            "group.id": uuid4().hex,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "fetch.queue.backoff.ms": 5,
            "queued.max.messages.kbytes": 131_072,
        }
    )
    consumer.subscribe([topic])
    counts: Counter[bytes] = Counter()
    while True:
        messages = consumer.consume(5000, timeout=1.0)
        for message in messages:
            counts[message.key()] += 1
        meter.end(len(messages))


def faust_stock(brokers: str, topic: str, meter: Meter) -> None:
    """Count by key in a Faust agent as its documentation writes one."""
    import faust

    app = faust.App(
        uuid4().hex,
        broker=f"kafka://{brokers}",
        store="memory://",
        topic_partitions=8,
        topic_disable_leader=True,
        topic_allow_declare=False,
        web_enabled=False,
        consumer_auto_offset_reset="earliest",
    )
    source = app.topic(topic, value_serializer="raw", key_serializer="raw", value_type=bytes, key_type=bytes)
    counts: Counter[bytes] = Counter()

    @app.agent(source)
    async def agent(stream: Any) -> None:
        async for event in stream.events():
            counts[event.key] += 1
            meter.end(1)

    sys.argv = ["bench", "worker", "-l", "error", "--without-web"]
    app.main()


def quixstreams(brokers: str, topic: str, meter: Meter) -> None:
    """Count by key in a Quix Streams dataframe."""
    from quixstreams import Application

    app = Application(
        broker_address=brokers, consumer_group=uuid4().hex, auto_offset_reset="earliest", loglevel="ERROR"
    )
    counts: Counter[bytes] = Counter()

    def count(_value: Any, key: Any, _time: Any, _headers: Any) -> None:
        counts[key] += 1
        meter.end(1)

    frame = app.dataframe(app.topic(topic, value_deserializer="bytes"))
    frame = frame.update(count, metadata=True)
    app.run()


def bytewax(brokers: str, topic: str, meter: Meter) -> None:
    """Count by key with a keyed, stateful map in Bytewax."""
    import bytewax.operators as op
    from bytewax.connectors.kafka import KafkaSource
    from bytewax.dataflow import Dataflow
    from bytewax.outputs import DynamicSink, StatelessSinkPartition
    from bytewax.testing import cluster_main

    class _Discard(StatelessSinkPartition[Any]):
        def write_batch(self, items: list[Any]) -> None:
            meter.end(len(items))

    class Discard(DynamicSink[Any]):
        def build(self, _step_id: str, _index: int, _count: int) -> _Discard:
            return _Discard()

    flow = Dataflow("bench")
    settings = {"fetch.queue.backoff.ms": "5", "queued.max.messages.kbytes": "131072"}
    records = op.input("in", flow, KafkaSource([brokers], [topic], add_config=settings, batch_size=1000))
    keyed = op.map("key", records, lambda record: (record.key.decode(), 1))
    counted = op.stateful_map("count", keyed, lambda total, _one: ((total or 0) + 1, (total or 0) + 1))
    op.output("out", counted, Discard())
    cluster_main(flow, [], 0)


CASES = {
    "aiokafka": aiokafka,
    "confluent": confluent,
    "faust": faust_stock,
    "quixstreams": quixstreams,
    "bytewax": bytewax,
}

if __name__ == "__main__":
    name, brokers, topic, events = sys.argv[1:]
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    CASES[name](brokers, topic, Meter(int(events)))
