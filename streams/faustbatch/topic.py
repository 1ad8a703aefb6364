"""A topic whose events are chunks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import faust

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiokafka.structs import ConsumerRecord
    from faust.types import TP


@dataclass(frozen=True, slots=True)
class Chunk:
    """Records of one partition, in order, as one Faust event carries them.

    Attributes
    ----------
    tp : TP
        Topic and partition.
    records : sequence of ConsumerRecord
        Decoded Kafka records, at least one. (Undecoded batches would be another class with `tp`, `last` and
        `seek_count`; nothing else in this package looks inside.)
    seek_count : int
        How often the consumer had moved its position when the chunk was fetched; see `BatchConsumer`.
    """

    tp: TP
    records: Sequence[ConsumerRecord]
    seek_count: int

    @property
    def last(self) -> int:
        """Offset of the last record."""
        offset: int = self.records[-1].offset
        return offset


class BatchTopic(faust.Topic):
    """A topic whose `decode` passes the chunk on; made outside (`modelwarden topics create`), never here."""

    def _compile_decode(self) -> None:
        super()._compile_decode()

        async def decode(message: Any, *, propagate: bool = False) -> Any:  # noqa: ARG001 - Faust's signature
            return self._create_event(None, message.value, None, message=message)

        self.decode = decode

    async def declare(self) -> None:
        """Do nothing."""
