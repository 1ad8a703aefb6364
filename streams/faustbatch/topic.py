"""A topic whose events are chunks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import faust

from streams.bus.base import Message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from faust.types import TP


class Records(Protocol):
    """Records of one partition, in order: `streams.recordblock.RecordBlock`, or a `RecordList`."""

    @property
    def last(self) -> int:
        """The offset up to which these are all there is."""

    def after(self, offset: int) -> Sequence[Message]:
        """Return the records behind an offset."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Records of one partition, as one Faust event carries them.

    Attributes
    ----------
    tp : TP
        Topic and partition.
    records : Records
    seek_count : int
        How often the consumer had moved its position when the chunk was fetched; see `BatchConsumer`.
    """

    tp: TP
    records: Records
    seek_count: int

    @property
    def last(self) -> int:
        """The offset up to which nothing of the partition lies outside this chunk and those before it."""
        return self.records.last

    def after(self, fence: int) -> Sequence[Message]:
        """Return the records behind an offset, as a sequence of messages."""
        return self.records.after(fence)


class RecordList:
    """Records that aiokafka made, at least one: of old formats, or where its shape is not the tested one."""

    def __init__(self, records: Sequence[Any]) -> None:
        self._records = records

    @property
    def last(self) -> int:
        """Offset of the last record."""
        offset: int = self._records[-1].offset
        return offset

    def after(self, offset: int) -> Sequence[Message]:
        """Return the records behind an offset, as messages."""
        return [
            Message(
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                key=record.key,
                value=record.value,
                headers=tuple(record.headers),
                time_ms=record.timestamp,
            )
            for record in self._records
            if record.offset > offset
        ]


class BatchTopic(faust.Topic):
    """A topic whose `decode` passes the chunk on; made outside (`modelwarden topics create`), never here."""

    def _compile_decode(self) -> None:
        super()._compile_decode()

        async def decode(message: Any, *, propagate: bool = False) -> Any:  # noqa: ARG001 - Faust's signature
            return self._create_event(None, message.value, None, message=message)

        self.decode = decode

    async def declare(self) -> None:
        """Do nothing."""
