"""The bus in this process: lists in memory. For embedded runs, tests and replay."""

from __future__ import annotations

import time
from itertools import count
from typing import TYPE_CHECKING
from zlib import crc32

from streams.bus.base import BusError, Headers, Message

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_POLL_S = 0.01


class MemoryBus:
    """Topics as lists of messages; nothing is compacted or forgotten.

    Parameters
    ----------
    partitions : mapping of str to int
        Partition count by topic; only these topics exist.
    """

    def __init__(self, partitions: Mapping[str, int]) -> None:
        self._logs: dict[str, list[list[Message]]] = {
            topic: [[] for _ in range(size)] for topic, size in partitions.items()
        }
        self._round_robin = count()

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
        """Append a record; without `partition`, by the key's crc32, and in turn without a key."""
        logs = self._topic(topic)
        if partition is None:
            partition = (next(self._round_robin) if key is None else crc32(key)) % len(logs)
        if not 0 <= partition < len(logs):
            raise BusError(
                f"topic {topic} has no partition {partition}: it has {len(logs)}; send to one of those"
            )
        log = logs[partition]
        log.append(
            Message(
                topic=topic,
                partition=partition,
                offset=len(log),
                key=key,
                value=value,
                headers=headers,
                time_ms=time_ms,
            )
        )

    def flush(self) -> None:
        """Do nothing: what was sent is stored."""

    def partition_count(self, topic: str) -> int:
        """Return the number of partitions."""
        return len(self._topic(topic))

    def end_offsets(self, topic: str) -> dict[int, int]:
        """Return, per partition, the offset that the next record will get."""
        return {partition: len(log) for partition, log in enumerate(self._topic(topic))}

    def offsets_at(self, topic: str, time_ms: int) -> dict[int, int]:
        """Return, per partition, the first offset whose record was given at or after a time; else the end."""
        return {
            partition: next((m.offset for m in log if m.time_ms >= time_ms), len(log))
            for partition, log in enumerate(self._topic(topic))
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
        places = {(topic, p): 0 for topic in topics for p in range(self.partition_count(topic))}
        places.update({place: offset for place, offset in (start or {}).items() if place in places})
        ends = None if follow else {(t, p): end for t in topics for p, end in self.end_offsets(t).items()}
        return self._read(places, ends, max_records, idle_s)

    def _read(
        self,
        places: dict[tuple[str, int], int],
        ends: dict[tuple[str, int], int] | None,
        max_records: int,
        idle_s: float | None,
    ) -> Iterator[list[Message]]:
        last_yield = last_record = time.monotonic()
        while True:
            found = False
            for place, offset in list(places.items()):
                stop = offset + max_records if ends is None else min(offset + max_records, ends[place])
                records = self._logs[place[0]][place[1]][offset:stop]
                if records:
                    found = True
                    places[place] = offset + len(records)
                    yield records
            now = time.monotonic()
            if found:
                last_yield = last_record = now
            elif ends is not None or (idle_s is not None and now - last_record >= idle_s):
                return
            elif now - last_yield >= 1.0 - _POLL_S:
                last_yield = now
                yield []
            else:
                time.sleep(_POLL_S)

    def close(self) -> None:
        """Do nothing: what was sent stays readable."""

    def _topic(self, topic: str) -> list[list[Message]]:
        try:
            return self._logs[topic]
        except KeyError:
            known = ", ".join(sorted(self._logs))
            raise BusError(f"topic {topic} does not exist: this bus was made with {known}") from None
