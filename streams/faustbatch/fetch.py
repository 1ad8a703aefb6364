"""A fetcher that hands over undecoded batches.

aiokafka's own makes an object of every record: three microseconds each, more than all of detection may cost.
Here the same request routine runs with two names of its own, so that what it makes of a response is a
`RecordBlock` for the topics of `Fences`, and records as ever for the others. No other consumer in the process
is touched.
"""

from __future__ import annotations

from types import FunctionType
from typing import TYPE_CHECKING, Any

import aiokafka.consumer.fetcher as stock
import structlog

from streams.faustbatch.recordbatch import MAGIC_AT
from streams.faustbatch.unpack import MAGIC, unpack_fetch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streams.faustbatch.gate import FetchGate

_LENGTH_AT, _LENGTH_END = 8, 12

_log = structlog.get_logger(__name__)


class FetchedBytes:
    """Stands in for aiokafka's MemoryRecords: keeps the bytes, and reads nothing but the first length."""

    def __init__(self, data: bytes | memoryview) -> None:
        self.data = data

    def has_next(self) -> bool:
        """Tell whether at least one batch is whole."""
        if len(self.data) < _LENGTH_END:
            return False
        length = int.from_bytes(self.data[_LENGTH_AT:_LENGTH_END], "big", signed=True)
        return _LENGTH_END + length <= len(self.data)

    def size_in_bytes(self) -> int:
        """Return the size of what was fetched."""
        return len(self.data)


class PartitionBatches(stock.PartitionRecords):
    """What one fetch brought of one partition: at most one block, or records one by one."""

    block_topics: frozenset[str] = frozenset()
    suspects: dict[Any, int]
    """By partition: offset of a batch that could not be read in the last fetch."""

    _records: Any
    _tp: Any
    next_fetch_offset: int

    def _unpack_records(self) -> Iterator[Any]:
        data = self._records.data
        is_modern = len(data) > MAGIC_AT and data[MAGIC_AT] >= MAGIC
        if self._tp.topic in self.block_topics and is_modern:
            return self._unpack_block(data)
        self._records = stock.MemoryRecords(bytes(data))
        records: Iterator[Any] = super()._unpack_records()
        return records

    def _unpack_block(self, data: bytes | memoryview) -> Iterator[Any]:
        committed_only = self._isolation_level == stock.READ_COMMITTED
        unpacked = unpack_fetch(
            self._tp.topic,
            self._tp.partition,
            data,
            self.next_fetch_offset,
            aborted=self._aborted_transactions if committed_only else (),
            suspect=self.suspects.pop(self._tp, None),
        )
        if unpacked.suspect is not None:
            self.suspects[self._tp] = unpacked.suspect
            _log.warning(
                "batch_damaged", topic=self._tp.topic, partition=self._tp.partition, offset=unpacked.suspect
            )
        self.next_fetch_offset = unpacked.next_offset
        if unpacked.block is not None:
            yield unpacked.block


def use_blocks(consumer: Any, topics: frozenset[str], gate: FetchGate) -> None:
    """Let a started aiokafka consumer deliver blocks of the given topics, and send fetches through a gate.

    Call it before the consumer has fetched anything.
    """
    batches = type("Batches", (PartitionBatches,), {"block_topics": topics, "suspects": {}})
    request = stock.Fetcher._proc_fetch_request  # noqa: SLF001 - shapes.py checks it
    names = {**request.__globals__, "MemoryRecords": FetchedBytes, "PartitionRecords": batches}
    fetcher = consumer._fetcher  # noqa: SLF001 - same
    send = FunctionType(request.__code__, names).__get__(fetcher)

    async def send_through_gate(*arguments: Any) -> Any:
        await gate.wait()
        return await send(*arguments)

    fetcher._proc_fetch_request = send_through_gate  # noqa: SLF001 - same
