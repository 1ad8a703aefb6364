"""Bytes of one fetch to a block of records: checksums, codecs, transactions, gaps.

Who calls it: `streams.faustbatch.fetch`, in the consumer's thread. Nothing here raises on what a fetch holds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cramjam
import numpy as np
from crc32c import crc32c

from streams.faustbatch.recordbatch import HEADER_BYTES, SMALLEST_RECORD_BYTES, read_headers, read_records
from streams.recordblock import (
    KEY_SIZE,
    KEY_START,
    OFFSET,
    PADDING,
    PARTITION,
    SPAN_ROWS,
    VALUE_SIZE,
    RecordBlock,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from streams.faustbatch.recordbatch import BatchHeader

UNPACKED_LIMIT_BYTES = 64 * 1024 * 1024
"""Most that one fetch is unpacked to: a small batch may hold gigabytes of zeros."""
_LARGEST_WHOLE = 16
"""Times the size of its part that a response may have to be kept for it."""
MAGIC = 2
_CRC_AT = 21
"""The checksum is of everything from here on."""
_ABORT = 0
_CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
_XERIAL = b"\x82SNAPPY\0"
_XERIAL_HEADER_BYTES = 16


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What one fetch held."""

    block: RecordBlock | None
    """None if there was nothing to deliver, nor anything to skip."""
    next_offset: int
    """Where the next fetch begins."""
    suspect: int | None
    """Offset of a batch that could not be read, and was left for another fetch."""


class DamagedBatchError(Exception):
    """A batch cannot be read; the message says why, never what it holds."""


def unpack_fetch(  # noqa: PLR0913 - a fetch has this many sides
    topic: str,
    partition: int,
    data: bytes | memoryview,
    first: int,
    *,
    aborted: Iterable[tuple[int, int]] = (),
    suspect: int | None = None,
) -> Unpacked:
    """Read the whole batches of a fetch.

    Parameters
    ----------
    topic, partition
        Where the bytes came from.
    data : bytes or memoryview
        Record batches of format v2; the last may be cut off. A view of a response, as
        `streams.faustbatch.receive` makes it, becomes the block's data as it is if nothing is compressed.
    first : int
        The offset that was asked for; a batch may begin before it.
    aborted : iterable of (producer id, first offset)
        Transactions to leave out, as the broker tells with the fetch.
    suspect : int, optional
        The `suspect` of the fetch before. A batch that cannot be read is left for another fetch the first
        time, for the fault may lie on the way; the second time it becomes a row with a fault.
    """
    # To numba an array that may be written to is another type, for which nothing is warmed up.
    view = memoryview(data).toreadonly()
    headers = read_headers(np.frombuffer(view, np.uint8))
    found = _Found(whole=None if any(header.codec for header in headers) else _padded(view))
    next_offset, left = first, None
    transactions = _Transactions(aborted)
    for header in headers:
        try:
            _check(header, view, next_offset)
            if not transactions.hide(header, view) and not found.take(header, _records_of(header, view)):
                break
        except DamagedBatchError as error:
            if header.base_offset != suspect:
                left = header.base_offset
                break
            found.give_up(header, next_offset, str(error))
        next_offset = max(next_offset, header.last_offset + 1)
    if next_offset == first:
        return Unpacked(None, first, left)
    return Unpacked(found.block(topic, partition, first, next_offset - 1), next_offset, left)


@dataclass(slots=True)
class _Found:
    """Records found so far: pieces of one buffer, and where in it the records lie."""

    whole: NDArray[np.uint8] | None = None
    """The fetch, `PADDING` behind it, if the records can stay where they are."""
    pieces: list[memoryview | bytes] = field(default_factory=list)
    spans: list[NDArray[np.int64]] = field(default_factory=list)
    faults: dict[int, str] = field(default_factory=dict)
    size: int = 0

    def take(self, header: BatchHeader, piece: memoryview | bytes) -> bool:
        """Add a batch's records; False if there is no more room. Raises DamagedBatchError."""
        if self.size and self.size + len(piece) > UNPACKED_LIMIT_BYTES:
            return False
        if not 0 <= header.records <= len(piece) // SMALLEST_RECORD_BYTES:
            raise DamagedBatchError("it cannot hold as many records as its header says")
        spans = np.empty((SPAN_ROWS, header.records), np.int64)
        time_ms = header.max_time_ms if header.is_append_time else header.base_time_ms
        read = read_records(
            np.frombuffer(piece, np.uint8),
            self.size if self.whole is None else header.start + HEADER_BYTES,
            header.records,
            header.base_offset,
            header.last_offset,
            time_ms,
            0 if header.is_append_time else 1,
            spans,
        )
        if not read:
            raise DamagedBatchError("its records are not of Kafka's form")
        self.pieces.append(piece)
        self.spans.append(spans)
        self.size += len(piece)
        return True

    def give_up(self, header: BatchHeader, offset: int, why: str) -> None:
        """Add one row in place of a batch."""
        spans = np.zeros((SPAN_ROWS, 1), np.int64)
        spans[OFFSET], spans[KEY_SIZE], spans[VALUE_SIZE] = offset, -1, -1
        self.spans.append(spans)
        self.faults[offset] = f"the batch of offsets {header.base_offset} to {header.last_offset}: {why}"

    def block(self, topic: str, partition: int, first: int, last: int) -> RecordBlock:
        """Return what was found from offset `first` on."""
        spans = np.concatenate([np.empty((SPAN_ROWS, 0), np.int64), *self.spans], axis=1)
        spans[PARTITION] = partition
        data = self.whole
        if data is None:
            data = np.frombuffer(b"".join([*self.pieces, PADDING]), np.uint8)
        block = RecordBlock(topic, data, spans, last=last, faults=self.faults)
        return block.after(first - 1)


def _padded(view: memoryview) -> NDArray[np.uint8] | None:
    """Return a part of a response with what lies behind it; None if it is not one, or too small a part.

    Whoever keeps a part keeps the whole response in memory.
    """
    frame = view.obj
    if not isinstance(frame, np.ndarray) or len(frame) > _LARGEST_WHOLE * len(view):
        return None
    start = np.frombuffer(view, np.uint8).ctypes.data - frame.ctypes.data
    padded: NDArray[np.uint8] = frame[start : start + len(view) + len(PADDING)]
    padded.flags.writeable = False
    return padded


def _check(header: BatchHeader, view: memoryview, next_offset: int) -> None:
    if header.magic != MAGIC:
        raise DamagedBatchError(f"its format is v{header.magic}, not v{MAGIC}")
    if crc32c(view[header.start + _CRC_AT : header.end]) != header.crc:
        raise DamagedBatchError("its checksum is wrong")
    if header.last_offset < next_offset:
        raise DamagedBatchError("its offsets lie before those of another batch")


def _records_of(header: BatchHeader, view: memoryview) -> memoryview | bytes:
    """Return the records' section, unpacked. Raises DamagedBatchError."""
    section = view[header.start + HEADER_BYTES : header.end]
    if header.codec == 0:
        return section
    if header.codec >= len(_CODECS):
        raise DamagedBatchError(f"its codec {header.codec} is not known")
    scratch = np.empty(UNPACKED_LIMIT_BYTES, np.uint8)  # not touched, so not there, beyond what is written
    name = _CODECS[header.codec]
    try:
        size = _snappy(section, scratch) if name == "snappy" else _unpack(name, section, scratch)
    except cramjam.DecompressionError:
        raise DamagedBatchError(
            f"it is no valid {name}, or unpacks to more than {UNPACKED_LIMIT_BYTES} bytes"
        ) from None
    return scratch[:size].tobytes()


def _unpack(name: str, section: memoryview, scratch: NDArray[np.uint8]) -> int:
    size: int = getattr(cramjam, name).decompress_into(section, scratch)
    return size


def _snappy(section: memoryview, scratch: NDArray[np.uint8]) -> int:
    """Unpack plain snappy, or the blocks that Java's library writes (github.com/xerial/snappy-java)."""
    if section[: len(_XERIAL)] != _XERIAL:
        return int(cramjam.snappy.decompress_raw_into(section, scratch.data))
    at, size = _XERIAL_HEADER_BYTES, 0
    while at < len(section):
        block = int.from_bytes(section[at : at + 4], "big")
        size += cramjam.snappy.decompress_raw_into(section[at + 4 : at + 4 + block], scratch[size:].data)
        at += 4 + block
    return size


class _Transactions:
    """Which batches of a fetch a reader may see (KIP-98)."""

    def __init__(self, aborted: Iterable[tuple[int, int]]) -> None:
        self._coming = sorted(aborted, key=lambda one: one[1])
        self._producers: set[int] = set()

    def hide(self, header: BatchHeader, view: memoryview) -> bool:
        """Tell whether the batch holds nothing to deliver. Call for all batches, in order."""
        while self._coming and self._coming[0][1] <= header.base_offset:
            self._producers.add(self._coming.pop(0)[0])
        if header.is_control:
            if self._is_abort(header, view):
                self._producers.discard(header.producer_id)
            return True
        return header.is_transactional and header.producer_id in self._producers

    def _is_abort(self, header: BatchHeader, view: memoryview) -> bool:
        """Tell whether a control batch takes its transaction back.

        Its key is a version and a type, of two bytes each.
        """
        marker = _Found()
        marker.take(header, _records_of(header, view))
        spans, piece = marker.spans[0], marker.pieces[0]
        if not spans.shape[1] or spans[KEY_SIZE, 0] < 4:
            return False
        start = int(spans[KEY_START, 0])
        return int.from_bytes(piece[start + 2 : start + 4], "big") == _ABORT
