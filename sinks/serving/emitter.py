"""Events on their way to Kafka, in a thread of its own: who gives one never waits.

    emitter = Emitter("127.0.0.1:9092", "modelwarden.events")
    emitter.start()
    emitter.put(make_event(...))     # on the path of a request: microseconds
    emitter.stop()                   # sends what is queued

Who calls it: a serving process. `put` never blocks and never raises; when the brokers are away and the queue
is full, the newest event is dropped and counted. Thread-safe. After a fork the child begins with an empty
queue: what the parent had queued, the parent sends.

Events of a few milliseconds go out together, as one columnar micro-batch for each partition. The partition is
the one that Kafka's own partitioner chooses for the key reference, so a key stays in its partition in every
format and from every client.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter, defaultdict, deque
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakSet

from kafka.errors import KafkaError
from kafka.partitioner.default import murmur2

from sinks.kafkasecurity import PLAINTEXT, KafkaSecurity
from sinks.serving.background import BackgroundThread
from sinks.serving.event import encode_event
from sinks.serving.formats import COLUMNS, FORMAT_HEADER, encode_columns
from sinks.serving.producer import connected_producer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sinks.records import ServingEvent

DEFAULT_QUEUED = 100_000
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
    queued : int
        Events kept while the brokers are away.
    security : KafkaSecurity
        How the brokers are reached.

    Attributes
    ----------
    emitted : int
        Events that the brokers have stored.
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
        queued: int = DEFAULT_QUEUED,
        security: KafkaSecurity = PLAINTEXT,
    ) -> None:
        self._kafka = kafka
        self._topic = topic
        self._format = event_format
        self._linger_s = linger_ms / 1000
        self._limit = queued
        self._client = security.client_arguments()
        self._is_open = False
        self._begin()
        _emitters.add(self)

    def _begin(self) -> None:
        """Start from nothing; in a child process too, where neither thread nor locks can be trusted."""
        self.emitted = 0
        self.dropped: Counter[str] = Counter()
        self._queue: deque[ServingEvent] = deque()
        self._in_flight = 0
        self._lock = threading.Lock()
        self._background = BackgroundThread("emitter", self._run)
        self._stopping = self._background.stopping
        self._partitions: dict[str, int] = {}

    def __len__(self) -> int:
        """Count the events that wait."""
        return len(self._queue)

    def put(self, event: ServingEvent) -> bool:
        """Queue an event; False if it was dropped."""
        if not self._is_open or len(self._queue) >= self._limit:
            self.dropped["buffer_full" if self._is_open else "closed"] += 1
            return False
        self._queue.append(event)
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
        self.lose("closed", len(self._queue))
        self._queue.clear()

    def _run(self) -> None:
        """Send what is queued, connecting again for as long as it takes."""
        while not self._stopping.is_set() or self._queue:
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
            if self._in_flight < self._limit:
                events = [self._queue.popleft() for _ in range(len(self._queue))]
                self._send(producer, events)
            if is_last and not self._queue:
                return

    def _send(self, producer: Any, events: Sequence[ServingEvent]) -> None:
        if self._format == "json":
            for event in events:
                self._send_one(producer, event)
            return
        by_partition: defaultdict[int, list[ServingEvent]] = defaultdict(list)
        if events:
            count = self._partition_count(producer)
            for event in events if count else ():
                by_partition[self._partition(event.key, count)].append(event)
            self.lose("refused", 0 if count else len(events))
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

    def _send_together(self, producer: Any, partition: int, events: Sequence[ServingEvent]) -> None:
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
        self._give(
            len(events), lambda: producer.send(self._topic, value, partition=partition, headers=headers)
        )

    def _send_one(self, producer: Any, event: ServingEvent) -> None:
        try:
            value = encode_event(event)
        except TypeError as error:
            self.lose("refused", 1)
            _log.warning("an event for %s cannot be written: %s", self._topic, error)
            return
        self._give(1, lambda: producer.send(self._topic, value, key=event.key.encode()))

    def _give(self, events: int, send: Callable[[], Any]) -> None:
        """Hand a message to the client, and count its events when it is known what became of them."""
        with self._lock:
            self._in_flight += events
        try:
            sent = send()
        except KafkaError as error:
            self._finish(events, error)
        else:
            sent.add_callback(lambda _metadata: self._finish(events, None))
            sent.add_errback(lambda error: self._finish(events, error))

    def _finish(self, events: int, error: Exception | None) -> None:
        with self._lock:
            self._in_flight -= events
            if error is None:
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
