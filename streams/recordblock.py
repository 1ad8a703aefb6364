"""Records as they came off the wire: one buffer, and where in it keys, values and headers lie.

Who makes it: the batch consumer from a fetch (`streams.faustbatch.fetch`), or `pack_messages` from messages.
Who reads it: the codec, a column at a time; whoever wants single messages takes it as the sequence of
messages that it is, and each is made when it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

import numpy as np

from streams.bus.base import Message

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from streams.bus.base import Headers

OFFSET, TIME_MS, PARTITION = 0, 1, 2
KEY_START, KEY_SIZE, VALUE_START, VALUE_SIZE, HEADERS_START, HEADERS = 3, 4, 5, 6, 7, 8
SPAN_ROWS = 9
"""Rows of `RecordBlock.spans`. Sizes are in bytes, -1 for null; HEADERS counts headers."""

PADDING = bytes(192)
"""Behind every buffer, so that a scanner may load eight bytes from any place in a value."""
_SINGLE_BYTES, _EVENT_BYTES = 4096, 192
"""A larger record is taken for a micro-batch, in which an event with two sketches takes so much."""


class RecordBlock(Sequence[Message]):
    """Records of one topic, in order.

    Parameters
    ----------
    topic : str
    data : uint8 (n,)
        What the spans point into; ends with `PADDING`.
    spans : int64 (SPAN_ROWS, records)
        A column per record. Offsets ascend within a partition.
    last : int
        The offset up to which this block is all there is: that of the last record, or more where the log has
        a gap or a transaction's end behind it. Only of use for records of one partition.
    faults : mapping of int to str
        By offset: what was wrong with a batch that could not be read; its one row has no key and no value.
    messages : sequence of Message, optional
        The same records, where they were messages already.
    """

    __slots__ = ("_messages", "data", "faults", "last", "spans", "topic")

    def __init__(  # noqa: PLR0913 - a block has this many parts
        self,
        topic: str,
        data: NDArray[np.uint8],
        spans: NDArray[np.int64],
        *,
        last: int,
        faults: Mapping[int, str] | None = None,
        messages: Sequence[Message] | None = None,
    ) -> None:
        self.topic = topic
        self.data = data
        self.spans = spans
        self.last = last
        self.faults = faults or {}
        self._messages = messages

    def __len__(self) -> int:
        """Count the records."""
        return len(self.spans[OFFSET])

    @overload
    def __getitem__(self, index: int) -> Message: ...
    @overload
    def __getitem__(self, index: slice) -> RecordBlock: ...
    def __getitem__(self, index: int | slice) -> Message | RecordBlock:
        """Return a record as a message, or the block of some records in a row."""
        if isinstance(index, slice):
            return self._slice(index)
        return self._message(index) if self._messages is None else self._messages[index]

    def after(self, offset: int) -> RecordBlock:
        """Return the records behind an offset, of a block of one partition."""
        first = int(np.searchsorted(self.spans[OFFSET], offset, side="right"))
        return self[first:] if first else self

    def pick(self, rows: NDArray[np.intp]) -> RecordBlock:
        """Return the block of some records, by their rows, in rising order."""
        messages = None if self._messages is None else [self._messages[row] for row in rows.tolist()]
        # In rows again: of another layout, kernels would be compiled anew, in a live worker.
        spans = np.ascontiguousarray(self.spans[:, rows])
        return RecordBlock(
            self.topic, self.data, spans, last=self.last, faults=self.faults, messages=messages
        )

    def cut(self, max_events: int) -> Iterator[RecordBlock]:
        """Yield the block in even pieces of no more events, or of one record; together they reach `last`.

        How many events a record holds is told by its size.
        """
        if not len(self):
            yield self
            return
        size = self.spans[VALUE_SIZE]
        total = np.cumsum(np.where(size <= _SINGLE_BYTES, 1, size // _EVENT_BYTES))
        pieces = -(-int(total[-1]) // max_events)
        most = -(-int(total[-1]) // pieces)
        start = before = 0
        while start < len(self):
            stop = max(int(np.searchsorted(total, before + most, side="right")), start + 1)
            yield self[start:stop]
            start, before = stop, int(total[stop - 1])

    def _slice(self, index: slice) -> RecordBlock:
        spans = self.spans[:, index]
        _, stop, _ = index.indices(len(self))
        last = self.last if stop == len(self) else int(spans[OFFSET, -1])
        messages = None if self._messages is None else self._messages[index]
        return RecordBlock(self.topic, self.data, spans, last=last, faults=self.faults, messages=messages)

    def _message(self, index: int) -> Message:
        offset, time_ms, partition, *_ = span = self.spans[:, index].tolist()
        return Message(
            topic=self.topic,
            partition=partition,
            offset=offset,
            key=self._bytes(span[KEY_START], span[KEY_SIZE]),
            value=self._bytes(span[VALUE_START], span[VALUE_SIZE]),
            headers=self._headers(span[HEADERS_START], span[HEADERS]),
            time_ms=time_ms,
        )

    def _bytes(self, start: int, size: int) -> bytes | None:
        return None if size < 0 else self.data[start : start + size].tobytes()

    def _headers(self, at: int, count: int) -> Headers:
        found = []
        for _ in range(count):
            size, at = self._varint(at)
            name = self._bytes(at, size) or b""
            size, at = self._varint(at + len(name))
            value = self._bytes(at, size) or b""
            at += len(value)
            found.append((name.decode(errors="replace"), value))
        return tuple(found)

    def _varint(self, at: int) -> tuple[int, int]:
        """Read a zigzag varint; the block was checked when it was made."""
        value = shift = 0
        while True:
            byte = int(self.data[at])
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return (value >> 1) ^ -(value & 1), at
            shift += 7


def topic_of(records: Sequence[Message]) -> str:
    """Return the topic of some records, at least one, without making a message of any."""
    return records.topic if isinstance(records, RecordBlock) else records[0].topic


def first_time_ms(records: Sequence[Message]) -> int:
    """Return the time of the first record, same."""
    return int(records.spans[TIME_MS, 0]) if isinstance(records, RecordBlock) else records[0].time_ms


def pack_messages(messages: Sequence[Message], topic: str) -> RecordBlock:
    """Return messages, at least one, as a block; their headers as they are on the wire."""
    pieces: list[bytes] = []
    spans = np.empty((SPAN_ROWS, len(messages)), np.int64)
    at = 0
    for row, message in enumerate(messages):
        headers = _pack_headers(message.headers) if message.headers else b""
        key, value = message.key or b"", message.value or b""
        pieces += (key, value, headers)
        spans[:, row] = (
            message.offset,
            message.time_ms,
            message.partition,
            at,
            -1 if message.key is None else len(key),
            at + len(key),
            -1 if message.value is None else len(value),
            at + len(key) + len(value),
            len(message.headers),
        )
        at += len(key) + len(value) + len(headers)
    data = np.frombuffer(b"".join([*pieces, PADDING]), np.uint8)
    return RecordBlock(topic, data, spans, last=messages[-1].offset, messages=messages)


def _pack_headers(headers: Headers) -> bytes:
    packed = bytearray()
    for name, value in headers:
        for part in (name.encode(), value):
            size = 2 * len(part)  # zigzag of a number that is not negative
            while size >= 128:
                packed.append(size & 127 | 128)
                size >>= 7
            packed.append(size)
            packed += part
    return bytes(packed)
