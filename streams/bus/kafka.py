"""The bus over Apache Kafka, by kafka-python: for tools and tests, not for the worker's hot path."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from sinks.kafkasecurity import PLAINTEXT, KafkaSecurity
from streams.bus.base import BusError, Headers, Message

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_POLL_MS = 500
_MAX_BYTES = 16 * 1024 * 1024


class KafkaBus:
    """A connection to brokers, opened at the first use.

    Parameters
    ----------
    bootstrap : str
        `host:port`, several separated by commas.
    timeout_s : float
        How long any one call may wait for the brokers.
    security : KafkaSecurity
        How they are reached. Raises KafkaSecurityError if its files cannot be used.
    """

    def __init__(
        self, bootstrap: str, *, timeout_s: float = 10.0, security: KafkaSecurity = PLAINTEXT
    ) -> None:
        self._bootstrap = bootstrap
        self._security = security
        self._client = security.client_arguments()
        self._timeout_ms = int(timeout_s * 1000)
        self._producer: Any = None
        self._metadata: Any = None
        self._failure: Exception | None = None
        self._sizes: dict[str, int] = {}

    def send(  # noqa: PLR0913 - a record has this many parts
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        partition: int | None = None,
        headers: Headers = (),
        time_ms: int = 0,
    ) -> None:
        """Append a record in the background; by the key's murmur2 without `partition`, as Kafka does."""
        with self._reaching(f"sending to topic {topic}"):
            self._raise_failure()
            size = self._sizes.get(topic) or self._sizes.setdefault(topic, self._partitions(topic))
            if partition is not None and not 0 <= partition < size:
                raise BusError(
                    f"topic {topic} has no partition {partition}: it has {size}; send to one of those"
                )
            sent = self._connected_producer().send(
                topic,
                value=value,
                key=key,
                partition=partition,
                headers=list(headers),
                timestamp_ms=time_ms or None,
            )
            sent.add_errback(self._remember)

    def flush(self) -> None:
        """Block until everything sent is stored."""
        if self._producer is not None:
            with self._reaching("storing what was sent"):
                self._producer.flush(timeout=self._timeout_ms / 1000)
                self._raise_failure()

    def partition_count(self, topic: str) -> int:
        """Return the number of partitions."""
        with self._reaching(f"asking about topic {topic}"):
            return self._partitions(topic)

    def end_offsets(self, topic: str) -> dict[int, int]:
        """Return, per partition, the offset that the next record will get."""
        with self._reaching(f"asking for the end of topic {topic}"):
            places = [TopicPartition(topic, p) for p in range(self._partitions(topic))]
            ends = self._connected_metadata().end_offsets(places)
            return {place.partition: end for place, end in ends.items()}

    def offsets_at(self, topic: str, time_ms: int) -> dict[int, int]:
        """Return, per partition, the first offset whose record was given at or after a time; else the end."""
        with self._reaching(f"asking for a time of topic {topic}"):
            ends = self.end_offsets(topic)
            asked = {TopicPartition(topic, partition): time_ms for partition in ends}
            found = self._connected_metadata().offsets_for_times(asked)
            return {
                place.partition: ends[place.partition] if at is None else at.offset
                for place, at in found.items()
            }

    def read(
        self,
        topics: Sequence[str],
        *,
        start: Mapping[tuple[str, int], int] | None = None,
        follow: bool = False,
        max_records: int = 4096,
        idle_s: float | None = None,
    ) -> Iterator[list[Message]]:
        """Yield lists of records; see `streams.bus.base.Bus.read`."""
        ends = {(topic, p): end for topic in topics for p, end in self.end_offsets(topic).items()}
        return self._read(ends, start or {}, follow=follow, max_records=max_records, idle_s=idle_s)

    def _read(
        self,
        ends: dict[tuple[str, int], int],
        start: Mapping[tuple[str, int], int],
        *,
        follow: bool,
        max_records: int,
        idle_s: float | None,
    ) -> Iterator[list[Message]]:
        with self._reaching(f"reading {sorted({topic for topic, _ in ends})}"):
            consumer = self._consumer(max_poll_records=max_records)
            try:
                places = self._seek(consumer, list(ends), start)
                last_record = time.monotonic()
                while follow or any(consumer.position(place) < ends[place] for place in places):
                    polled = consumer.poll(timeout_ms=_POLL_MS, max_records=max_records)
                    now = time.monotonic()
                    for place, records in polled.items():
                        last_record = now
                        end = None if follow else ends[place]
                        messages = [_message(r) for r in records if end is None or r.offset < end]
                        if messages:
                            yield messages
                    idle = now - last_record
                    if follow and not polled:
                        if idle_s is not None and idle >= idle_s:
                            return
                        yield []
                    elif not follow and idle * 1000 > self._timeout_ms:
                        raise BusError(self._unreachable("reading", f"nothing came for {idle:.0f} s"))
            finally:
                consumer.close()

    def _seek(
        self,
        consumer: Any,
        places: Sequence[tuple[str, int]],
        start: Mapping[tuple[str, int], int],
    ) -> list[TopicPartition]:
        assigned = [TopicPartition(*place) for place in places]
        consumer.assign(assigned)
        begin = consumer.beginning_offsets(assigned)
        for place in assigned:
            consumer.seek(place, max(start.get(tuple(place), 0), begin[place]))
        return assigned

    def close(self) -> None:
        """Flush, then release."""
        try:
            self.flush()
        finally:
            for client in (self._producer, self._metadata):
                if client is not None:
                    client.close()
            self._producer = self._metadata = None

    def _partitions(self, topic: str) -> int:
        found = self._connected_metadata().partitions_for_topic(topic)
        if not found:
            raise BusError(
                f"topic {topic} does not exist at {self._bootstrap}: run `modelwarden topics create`"
            )
        return len(found)

    def _consumer(self, **settings: Any) -> Any:
        return KafkaConsumer(
            bootstrap_servers=self._bootstrap.split(","),
            bootstrap_timeout_ms=self._timeout_ms,
            request_timeout_ms=self._timeout_ms,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            allow_auto_create_topics=False,
            max_partition_fetch_bytes=_MAX_BYTES,
            **self._client,
            **settings,
        )

    def _connected_metadata(self) -> Any:
        if self._metadata is None:
            self._metadata = self._consumer()
        return self._metadata

    def _connected_producer(self) -> Any:
        if self._producer is None:
            self._producer = KafkaProducer(
                bootstrap_servers=self._bootstrap.split(","),
                bootstrap_timeout_ms=self._timeout_ms,
                request_timeout_ms=self._timeout_ms,
                max_block_ms=self._timeout_ms,
                delivery_timeout_ms=self._timeout_ms + 1000,
                max_request_size=_MAX_BYTES,
                allow_auto_create_topics=False,
                linger_ms=5,
                acks="all",
                **self._client,
            )
        return self._producer

    def _remember(self, error: Exception) -> None:
        self._failure = self._failure or error

    def _raise_failure(self) -> None:
        if self._failure is not None:
            error, self._failure = self._failure, None
            raise error

    def _unreachable(self, doing: str, why: str) -> str:
        return (
            f"{doing} failed at Kafka {self._bootstrap}: {why}; check the address and that the broker runs "
            "(`modelwarden doctor`), or start one with `modelwarden kafka up`"
        )

    @contextmanager
    def _reaching(self, doing: str) -> Iterator[None]:
        """Turn the library's errors into BusError with the address and what to try."""
        try:
            yield
        except (KafkaError, OSError) as error:
            why = self._security.explain(self._bootstrap) or f"{type(error).__name__} {error}".strip()
            raise BusError(self._unreachable(doing, why)) from error


def _message(record: Any) -> Message:
    return Message(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        key=record.key,
        value=record.value,
        headers=tuple(record.headers),
        time_ms=record.timestamp,
    )
