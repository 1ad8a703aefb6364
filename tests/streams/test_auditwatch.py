"""The audit chain watched on a real Kafka: each fault is counted once, and what is cut off is noticed."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import msgspec
import pytest

from sinks.audit import AuditChain
from sinks.metrics import catalogue
from sinks.metrics.instruments import Instruments
from sinks.records import Feedback
from streams.auditwatch import AuditWatch
from streams.bus.kafka import KafkaBus
from streams.clock import ManualClock
from streams.settings import Settings
from streams.topics import create_topics

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.kafka


class Bench:
    """An audit topic of two partitions, and who watches it."""

    def __init__(self, kafka: str) -> None:
        self.settings = Settings(kafka=kafka, topic_prefix=f"watch-{uuid4().hex[:8]}.")
        create_topics(kafka, prefix=self.settings.topic_prefix, partitions=2)
        self.bus = KafkaBus(kafka)
        self.clock = ManualClock()
        self.instruments = Instruments("reconcile")
        self.watch = AuditWatch(self.settings, self.instruments, self.clock)
        self.chains = [AuditChain(0), AuditChain(1)]

    def write(self, partition: int, *, time_ms: int = 1, sealed_ms: int = 1) -> None:
        """Write the next entry; it is false if the two times differ."""
        word = Feedback(
            key="k0-aa", model="digits", verdict="honest", author="ana", reason="known", time_ms=1
        )
        entry = self.chains[partition].append("feedback", word, sealed_ms)
        value = msgspec.json.encode(msgspec.structs.replace(entry, time_ms=time_ms))
        self.bus.send(self.settings.topic("audit"), value, key=b"x", partition=partition)
        self.bus.flush()

    def breaks(self) -> float:
        self.watch.verify()
        return self.instruments.value(catalogue.AUDIT_BREAKS)


@pytest.fixture
def bench(kafka_broker: str) -> Iterator[Bench]:
    made = Bench(kafka_broker)
    yield made
    made.bus.close()


def test_a_chain_that_holds_counts_no_break_and_is_marked_as_verified(bench: Bench) -> None:
    for number in range(6):
        bench.write(number % 2)
    assert bench.breaks() == 0
    assert bench.instruments.value(catalogue.AUDIT_VERIFIED) == bench.clock.now_ms() / 1000


def test_each_fault_is_counted_once(bench: Bench) -> None:
    bench.write(0)
    bench.write(0, time_ms=2)
    assert [bench.breaks(), bench.breaks()] == [1, 1]
    bench.write(1)
    bench.write(1, time_ms=2)
    assert bench.breaks() == 2


def test_a_chain_that_was_replaced_since_the_round_before_is_noticed(bench: Bench) -> None:
    bench.write(0)
    bench.write(0)
    assert bench.breaks() == 0
    bench.settings = msgspec.structs.replace(bench.settings, topic_prefix=f"cut-{uuid4().hex[:8]}.")
    create_topics(bench.settings.kafka, prefix=bench.settings.topic_prefix, partitions=2)
    bench.chains[0] = AuditChain(0)
    bench.write(0)
    bench.watch._settings = bench.settings  # as if the topic had been made anew
    assert bench.breaks() == 1
