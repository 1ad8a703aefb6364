"""The bus contract: append-only topics of partitions, with offsets.

Two implementations, one test suite: `streams.bus.memory.MemoryBus` (embedded runs, tests, replay) and
`streams.bus.kafka.KafkaBus` (kafka-python; tools and tests). The Faust worker consumes by itself and does not
use this for its hot path.

Every method may block for up to the implementation's timeout and raises `BusError` when the bus cannot be
reached or refuses; nothing else. Calls come from one thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Headers = tuple[tuple[str, bytes], ...]


class BusError(Exception):
    """The bus cannot be reached or refused. The message says which address or topic, and what to try."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One record as it stands on a topic."""

    topic: str
    partition: int
    offset: int
    key: bytes | None = None
    value: bytes | None = None
    """None is a tombstone on a compacted topic."""
    headers: Headers = ()
    time_ms: int = 0
    """Time the bus was given with the record; 0 where none was."""


class Bus(Protocol):
    """Topics to send to and to read from."""

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
        """Append a record, in the background. Without `partition`, records of one key stay together.

        Errors of earlier sends are raised here or by `flush`.
        """

    def flush(self) -> None:
        """Block until everything sent is stored."""

    def partition_count(self, topic: str) -> int:
        """Return the number of partitions; `BusError` if the topic does not exist."""

    def end_offsets(self, topic: str) -> dict[int, int]:
        """Return, per partition, the offset that the next record will get."""

    def offsets_at(self, topic: str, time_ms: int) -> dict[int, int]:
        """Return, per partition, the first offset whose record was given at or after a time; else the end."""

    def read(
        self,
        topics: Sequence[str],
        *,
        start: Mapping[tuple[str, int], int] | None = None,
        follow: bool = False,
        max_records: int = 4096,
        idle_s: float | None = None,
    ) -> Iterator[list[Message]]:
        """Yield lists of records, in order within each partition.

        From `start` (by topic and partition; missing ones from the beginning) to the end as it stood at the
        call; with `follow` for ever, or until nothing came for `idle_s` seconds. While following, an empty
        list is yielded at least once a second so that the caller may stop.
        """

    def close(self) -> None:
        """Flush, then release. Closing twice is harmless."""
