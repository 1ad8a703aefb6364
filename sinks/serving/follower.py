"""Follows compacted topics in a thread of its own, from their beginning to their end and on.

Who calls it: the enforcer, the revoker, the reconcile loop. `on_record` and `on_tick` are called in the
thread and may take their time; what they raise ends the thread, and `check` raises it again where a process
must not go on without. `start` and `stop` may be called from any thread; `stop` waits.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from sinks.kafkasecurity import PLAINTEXT, KafkaSecurity
from sinks.serving.background import BackgroundThread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

POLL_MS = 200
CONTACT_S = 2.0
"""How often the brokers are asked for the topics' ends, which tells whether they can be reached."""
TICK_S = 0.2
TIMEOUT_MS = 5_000
RETRY_S = 1.0

_log = logging.getLogger(__name__)


class TopicFollower:
    """One thread that reads some topics.

    Parameters
    ----------
    kafka : str
        Bootstrap servers.
    topics : sequence of str
        With their prefix.
    on_record : callable
        Takes each record (kafka-python's), in order within a partition.
    on_tick : callable
        Called a few times a second, brokers or not.
    security : KafkaSecurity
        How the brokers are reached.
    """

    def __init__(
        self,
        kafka: str,
        topics: Sequence[str],
        on_record: Callable[[Any], object],
        on_tick: Callable[[], object] = lambda: None,
        *,
        security: KafkaSecurity = PLAINTEXT,
    ) -> None:
        self.failures = 0
        """Times that the brokers could not be reached."""
        self._kafka = kafka
        self._topics = tuple(topics)
        self._on_record = on_record
        self._client = security.client_arguments()
        self._on_tick = on_tick
        self._contact_s = -float("inf")
        self._tick_s = -float("inf")
        self._positions: dict[TopicPartition, int] = {}
        self._ready = threading.Event()
        self._background = BackgroundThread("follower", self._run)
        self._stopping = self._background.stopping

    @property
    def is_ready(self) -> bool:
        """Whether the topics have been read to the ends that they had at the start."""
        return self._ready.is_set()

    @property
    def contact_age_s(self) -> float:
        """Seconds since the brokers last answered; infinite before they did."""
        return time.monotonic() - self._contact_s

    def check(self) -> None:
        """Raise what has ended the thread, if it ended by itself."""
        if self._background.failure is not None:
            raise self._background.failure

    def start(self) -> None:
        """Begin. Calling it twice is harmless."""
        self._background.start()

    def stop(self) -> None:
        """End, and wait until the thread has ended."""
        self._background.stop()

    def wait_until_ready(self, timeout_s: float) -> bool:
        """Wait until the topics have been read once; tell whether they have."""
        return self._ready.wait(timeout_s)

    def _run(self) -> None:
        """Follow, connecting again for as long as it takes."""
        while not self._stopping.is_set():
            try:
                self._follow()
            except (KafkaError, OSError) as error:
                self.failures += 1
                topics = ", ".join(self._topics)
                _log.warning("cannot read %s at %s: %s; trying again", topics, self._kafka, error)
                self._tick()
                self._stopping.wait(RETRY_S)

    def _follow(self) -> None:
        consumer = KafkaConsumer(
            bootstrap_servers=self._kafka.split(","),
            bootstrap_timeout_ms=TIMEOUT_MS,
            request_timeout_ms=TIMEOUT_MS,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            allow_auto_create_topics=False,
            **self._client,
        )
        try:
            self._seek(consumer)
            asked_s = -float("inf")
            while not self._stopping.is_set():
                if time.monotonic() - asked_s >= CONTACT_S or not self.is_ready:
                    asked_s = time.monotonic()
                    self._keep_contact(consumer)
                self._tick()
                for place, records in consumer.poll(timeout_ms=POLL_MS).items():
                    for record in records:
                        self._on_record(record)
                        self._positions[place] = record.offset + 1
                        self._tick()
        finally:
            consumer.close()

    def _tick(self) -> None:
        if time.monotonic() - self._tick_s >= TICK_S:
            self._tick_s = time.monotonic()
            self._on_tick()

    def _seek(self, consumer: Any) -> None:
        """Go on where an earlier connection ended, or at the beginning."""
        places = [place for topic in self._topics for place in _places(consumer, topic)]
        consumer.assign(places)
        for place in places:
            if place in self._positions:
                consumer.seek(place, self._positions[place])
            else:
                consumer.seek_to_beginning(place)

    def _keep_contact(self, consumer: Any) -> None:
        ends = consumer.end_offsets(list(consumer.assignment()))
        self._contact_s = time.monotonic()
        if not self.is_ready and all(consumer.position(place) >= end for place, end in ends.items()):
            self._ready.set()


def _places(consumer: Any, topic: str) -> list[TopicPartition]:
    partitions = consumer.partitions_for_topic(topic)
    if not partitions:
        raise OSError(f"topic {topic} does not exist; run `modelwarden topics create`")
    return [TopicPartition(topic, partition) for partition in sorted(partitions)]
