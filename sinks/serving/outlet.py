"""Records on their way to one topic, in a thread of its own: who gives one never waits for Kafka.

Who calls it: a serving process. `put` never blocks and never raises; when the brokers are away and the queue
is full, the newest record is dropped and counted.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Any

from kafka.errors import KafkaError

from sinks.kafkasecurity import PLAINTEXT, KafkaSecurity
from sinks.serving.background import BackgroundThread
from sinks.serving.producer import TIMEOUT_MS, connected_producer

DEFAULT_QUEUED = 10_000
IDLE_S = 0.02
"""How long the thread sleeps when there is nothing to send. A wake-up for every record would take the
interpreter from the request that gave it."""
RETRY_S = 1.0
IN_FLIGHT = 5_000
"""Records given to the client that the brokers have not stored yet; more wait in the queue."""

_log = logging.getLogger(__name__)


class Outlet:
    """A bounded queue of records.

    Parameters
    ----------
    kafka : str
        Bootstrap servers.
    topic : str
        With its prefix.
    queued : int
        Records kept while the brokers are away.
    security : KafkaSecurity
        How the brokers are reached.
    """

    def __init__(
        self, kafka: str, topic: str, *, queued: int = DEFAULT_QUEUED, security: KafkaSecurity = PLAINTEXT
    ) -> None:
        self.stored = 0
        self.dropped = 0
        """Records that did not fit, or that the brokers refused."""
        self._kafka = kafka
        self._topic = topic
        self._limit = queued
        self._client = security.client_arguments()
        self._queue: deque[tuple[bytes, bytes]] = deque()
        self._in_flight = 0
        self._lock = threading.Lock()
        self._background = BackgroundThread("outlet", self._run)
        self._stopping = self._background.stopping

    def __len__(self) -> int:
        """Count the records that wait."""
        return len(self._queue)

    def put(self, key: bytes, value: bytes) -> bool:
        """Queue a record; False if it was dropped."""
        if len(self._queue) >= self._limit:
            self.dropped += 1
            return False
        self._queue.append((key, value))
        return True

    def start(self) -> None:
        """Begin to send. Calling it twice is harmless."""
        self._background.start()

    def stop(self) -> None:
        """Send what is queued, if the brokers are there; wait for the thread."""
        self._background.stop()

    def _run(self) -> None:
        """Send what is queued, connecting again for as long as it takes."""
        while not self._stopping.is_set() or self._queue:
            try:
                with connected_producer(
                    self._kafka, delivery_timeout_ms=2 * TIMEOUT_MS, linger_ms=2, **self._client
                ) as producer:
                    self._send(producer)
            except (KafkaError, OSError) as error:
                _log.warning("cannot send to %s at %s: %s; trying again", self._topic, self._kafka, error)
                if self._stopping.wait(RETRY_S):
                    return

    def _send(self, producer: Any) -> None:
        """Send until told to stop and nothing is left."""
        while True:
            if self._in_flight >= IN_FLIGHT or not self._queue:
                if self._stopping.wait(IDLE_S) and not self._queue:
                    return
                continue
            key, value = self._queue.popleft()
            with self._lock:
                self._in_flight += 1
            try:
                sent = producer.send(self._topic, value, key=key)
            except KafkaError as error:
                self._lost(error)
                if self._stopping.is_set():
                    return
            else:
                sent.add_callback(self._kept)
                sent.add_errback(self._lost)

    def _kept(self, _metadata: object) -> None:
        with self._lock:
            self._in_flight -= 1
            self.stored += 1

    def _lost(self, error: Exception) -> None:
        with self._lock:
            self._in_flight -= 1
            self.dropped += 1
        _log.warning("a record for %s was lost: %s", self._topic, error)
