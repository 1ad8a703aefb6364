"""Events on their way to Kafka, in a thread of its own: who gives one never waits.

    emitter = Emitter("127.0.0.1:9092", "modelwarden.events")
    emitter.start()
    emitter.put(make_event(...))     # on the path of a request: microseconds
    emitter.stop()                   # sends what is queued

Who calls it: a serving process. `put` never waits for Kafka and never raises. While the brokers are slow or
away the backlog grows: events go on without their sketches first, and only when it is full is the newest
event dropped (`sinks.serving.backlog`); both are counted. Commands come by a way of their own
(`sinks.serving.follower`) and are never shed. Thread-safe. After a fork the child begins with an empty queue:
what the parent had queued, the parent sends.

Events of a few milliseconds go out together, as one columnar micro-batch for each partition. The partition is
the one that Kafka's own partitioner chooses for the key reference, so a key stays in its partition in every
format and from every client.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakSet

from kafka.errors import KafkaError
from kafka.partitioner.default import murmur2

from sinks.kafkasecurity import PLAINTEXT, KafkaSecurity
from sinks.serving.background import BackgroundThread
from sinks.serving.backlog import Backlog, event_bytes
from sinks.serving.event import encode_event
from sinks.serving.formats import COLUMNS, FORMAT_HEADER, encode_columns
from sinks.serving.producer import connected_producer

if TYPE_CHECKING:
    from collections.abc import Callable

    from sinks.records import ServingEvent

DEFAULT_QUEUED_BYTES = 32 * 1024 * 1024
DEFAULT_LINGER_MS = 10
MICRO_BATCH_EVENTS = 512
RETRY_S = 1.0
DELIVERY_TIMEOUT_MS = 30_000
_KNOWN_KEYS = 100_000

Format = Literal["columns", "json"]

_log = logging.getLogger(__name__)


class Emitter:
    """A bounded queue of events, and the thread that sends them.

    Parameters
    ----------
    kafka : str
        Bootstrap servers.
    topic : str
        The events topic, with its prefix.
    event_format : str
        `columns` sends micro-batches; `json` one message an event, for readers of other kinds.
    linger_ms : float
        How long an event may wait for others, 5 to 20.
    queued_bytes : int
        Memory for events that the brokers have not stored: about 50,000.
    security : KafkaSecurity
        How the brokers are reached.

    Attributes
    ----------
    emitted : int
        Events that the brokers have stored.
    backlog : Backlog
        Events that are not stored yet, and the sketches that they had to leave behind.
    dropped : Counter
        Events that were given up, by reason: `buffer_full`, `refused` by the brokers, `closed`.
    """

    def __init__(  # noqa: PLR0913 - a queue and a client have this many settings
        self,
        kafka: str,
        topic: str,
        *,
        event_format: Format = "columns",
        linger_ms: float = DEFAULT_LINGER_MS,
        queued_bytes: int = DEFAULT_QUEUED_BYTES,
        security: KafkaSecurity = PLAINTEXT,
    ) -> None:
        self._kafka = kafka
        self._topic = topic
        self._format = event_format
        self._linger_s = linger_ms / 1000
        self._queued_bytes = queued_bytes
        self._client = security.client_arguments()
        self._is_open = False
        self._begin()
        _emitters.add(self)

    def _begin(self) -> None:
        """Start from nothing; in a child process too, where neither thread nor locks can be trusted."""
        self.emitted = 0
        self.dropped: Counter[str] = Counter()
        self.backlog = Backlog(self._queued_bytes)
        self._lock = threading.Lock()
        self._background = BackgroundThread("emitter", self._run)
        self._stopping = self._background.stopping
        self._partitions: dict[str, int] = {}

    def __len__(self) -> int:
        """Count the events that are neither stored nor given up."""
        return len(self.backlog)

    def put(self, event: ServingEvent) -> bool:
        """Queue an event; False if it was dropped."""
        if not self._is_open or not self.backlog.put(event):
            self.lose("buffer_full" if self._is_open else "closed", 1)
            return False
        if not self._background.is_started:
            self.start()  # the first event after a fork
        return True

    def start(self) -> None:
        """Begin to send. Calling it twice is harmless."""
        self._is_open = True
        self._background.start()

    def stop(self) -> None:
        """Send what is queued, if the brokers are there; wait for the thread. Later events are dropped."""
        self._is_open = False
        self._background.stop()
        self.lose("closed", self.backlog.clear())

    def _run(self) -> None:
        """Send what is queued, connecting again for as long as it takes."""
        while not self._stopping.is_set() or self.backlog.waiting:
            try:
                with connected_producer(
                    self._kafka, delivery_timeout_ms=DELIVERY_TIMEOUT_MS, **self._client
                ) as producer:
                    self._send_all(producer)
            except (KafkaError, OSError) as error:
                _log.warning("cannot send to %s at %s: %s; trying again", self._topic, self._kafka, error)
                if self._stopping.wait(RETRY_S):
                    return

    def _send_all(self, producer: Any) -> None:
        """Send what comes, every few milliseconds, until told to stop and nothing is left."""
        while True:
            is_last = self._stopping.wait(self._linger_s)
            events = self.backlog.take()
            if events:
                self._send(producer, events)
            elif self.backlog.waiting:
                time.sleep(self._linger_s)  # enough is on its way
            elif is_last:
                return

    def _send(self, producer: Any, events: list[ServingEvent]) -> None:
        if self._format == "json":
            for event in events:
                self._send_one(producer, event)
            return
        count = self._partition_count(producer)
        if not count:
            self._refuse(events, "the topic has no partitions, or the brokers do not tell")
            return
        by_partition: defaultdict[int, list[ServingEvent]] = defaultdict(list)
        for event in events:
            by_partition[self._partition(event.key, count)].append(event)
        for partition, group in by_partition.items():
            for start in range(0, len(group), MICRO_BATCH_EVENTS):
                self._send_together(producer, partition, group[start : start + MICRO_BATCH_EVENTS])

    def _partition_count(self, producer: Any) -> int:
        """Return the topic's partitions, 0 if the brokers do not tell."""
        try:
            return len(producer.partitions_for(self._topic) or ())
        except KafkaError as error:
            _log.warning("cannot send to %s: %s", self._topic, error)
            return 0

    def _partition(self, key: str, count: int) -> int:
        """Return the partition that Kafka's clients choose for a key: its murmur2, without the sign."""
        known = self._partitions.get(key)
        if known is None:
            if len(self._partitions) >= _KNOWN_KEYS:
                self._partitions.clear()
            known = self._partitions[key] = murmur2(key.encode()) & 0x7FFFFFFF
        return known % count

    def _send_together(self, producer: Any, partition: int, events: list[ServingEvent]) -> None:
        try:
            value = encode_columns(events)
        except (ValueError, TypeError):  # too long a name, or malformed: JSON, and its reader tells
            if len(events) == 1:
                self._send_one(producer, events[0])
                return
            middle = len(events) // 2
            self._send_together(producer, partition, events[:middle])
            self._send_together(producer, partition, events[middle:])
            return
        headers = [(FORMAT_HEADER, COLUMNS)]
        self._give(events, lambda: producer.send(self._topic, value, partition=partition, headers=headers))

    def _send_one(self, producer: Any, event: ServingEvent) -> None:
        try:
            value = encode_event(event)
        except TypeError as error:
            self._refuse([event], error)
            return
        self._give([event], lambda: producer.send(self._topic, value, key=event.key.encode()))

    def _give(self, events: list[ServingEvent], send: Callable[[], Any]) -> None:
        """Hand a message to the client, and count its events when it is known what became of them."""
        count, size = len(events), sum(map(event_bytes, events))  # the events themselves can go
        try:
            sent = send()
        except KafkaError as error:
            self._finish(count, size, error)
        else:
            sent.add_callback(lambda _metadata: self._finish(count, size))
            sent.add_errback(lambda error: self._finish(count, size, error))

    def _refuse(self, events: list[ServingEvent], why: object) -> None:
        self._finish(len(events), sum(map(event_bytes, events)), why)

    def _finish(self, events: int, size: int, error: object = None) -> None:
        """Count events of so many bytes that were taken as stored, or as refused for a reason."""
        self.backlog.finish(events, size)
        if error is None:
            with self._lock:
                self.emitted += events
            return
        self.lose("refused", events)
        _log.warning("%d events for %s were lost: %s", events, self._topic, error)

    def lose(self, reason: str, events: int) -> None:
        """Count events that are given up, for a reason of `dropped`."""
        if events:
            with self._lock:
                self.dropped[reason] += events


_emitters: WeakSet[Emitter] = WeakSet()


def _after_fork() -> None:
    for emitter in list(_emitters):
        emitter._begin()  # noqa: SLF001 - the same module


os.register_at_fork(after_in_child=_after_fork)
