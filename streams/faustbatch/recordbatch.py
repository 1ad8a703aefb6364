"""Kafka's record batches, format v2, to columns: what lies where, without an object per record.

Who calls it: `streams.faustbatch.fetch`, in the consumer's thread, with the bytes of one fetch. Nothing here
raises on what a batch holds: a batch that cannot be read becomes one row with a `fault`, and the batches
around it are kept. The kernels release the GIL.

Source: https://kafka.apache.org/documentation/#recordbatch and `#record`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from detectors.kernelcache import njit
from streams.formats.words import load1
from streams.recordblock import (
    HEADERS,
    HEADERS_START,
    KEY_SIZE,
    KEY_START,
    OFFSET,
    TIME_MS,
    VALUE_SIZE,
    VALUE_START,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEADER_BYTES = 61
MAGIC_AT = 16
SMALLEST_RECORD_BYTES = 7
"""Length, attributes, time, offset, key size, value size, header count: a byte each."""


class BatchHeader(NamedTuple):
    """What stands before the records of a batch; `start` and `end` are places in the fetch."""

    start: int
    end: int
    base_offset: int
    last_offset: int
    magic: int
    crc: int
    attributes: int
    base_time_ms: int
    max_time_ms: int
    producer_id: int
    records: int

    @property
    def codec(self) -> int:
        """0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd; others are not known."""
        return self.attributes & 7

    @property
    def is_append_time(self) -> bool:
        """Whether the broker set one time for the whole batch."""
        return bool(self.attributes & 8)

    @property
    def is_transactional(self) -> bool:
        """Whether a transaction may still have taken the batch back."""
        return bool(self.attributes & 16)

    @property
    def is_control(self) -> bool:
        """Whether the batch marks the end of a transaction, and holds no data."""
        return bool(self.attributes & 32)


def read_headers(data: NDArray[np.uint8]) -> list[BatchHeader]:
    """Return the headers of the whole batches in a fetch; the last batch may be cut off and is left out."""
    return [BatchHeader(*row) for row in _read_headers(data).tolist()]


@njit(inline="always")
def _big_endian(data: NDArray[np.uint8], at: int, size: int) -> Any:
    value = np.int64(0)
    for i in range(size):
        value = (value << np.int64(8)) | np.int64(data[at + i])
    return value


@njit(inline="always")
def _signed(value: Any, bits: int) -> Any:
    return value - (np.int64(1) << bits) if value >> (bits - 1) else value


@njit(cache=True, nogil=True)
def _read_headers(data: NDArray[np.uint8]) -> NDArray[np.int64]:
    found = np.empty((len(data) // HEADER_BYTES, 11), np.int64)
    at, n = 0, 0
    while at + HEADER_BYTES <= len(data):
        end = at + 12 + _signed(_big_endian(data, at + 8, 4), 32)
        if end < at + HEADER_BYTES or end > len(data):
            break
        base = _big_endian(data, at, 8)
        found[n, 0], found[n, 1], found[n, 2] = at, end, base
        found[n, 3] = base + _signed(_big_endian(data, at + 23, 4), 32)
        found[n, 4] = data[at + MAGIC_AT]
        found[n, 5] = _big_endian(data, at + 17, 4)
        found[n, 6] = _big_endian(data, at + 21, 2)
        found[n, 7] = _big_endian(data, at + 27, 8)
        found[n, 8] = _big_endian(data, at + 35, 8)
        found[n, 9] = _big_endian(data, at + 43, 8)
        found[n, 10] = _signed(_big_endian(data, at + 57, 4), 32)
        n += 1
        at = end
    return found[:n]


@njit(inline="always")
def _varint(at: Any, end: Any) -> Any:
    """Return a zigzag varint of at most ten bytes and the place behind it; -1 for the place if cut off."""
    value, shift = np.uint64(0), np.uint64(0)
    while at < end and shift < np.uint64(70):
        byte = np.uint64(load1(at))
        at += 1
        value |= (byte & np.uint64(127)) << shift
        if byte < np.uint64(128):
            return np.int64(value >> np.uint64(1)) ^ -np.int64(value & np.uint64(1)), at
        shift += np.uint64(7)
    return np.int64(0), np.int64(-1)


@njit(cache=True, nogil=True)
def read_records(
    data: NDArray[np.uint8],
    shift: Any,
    count: int,
    base_offset: int,
    last_offset: int,
    time_ms: int,
    has_delta_time: int,
    spans: NDArray[np.int64],
) -> Any:
    """Write where the records of one batch lie, `shift` added, into `spans` (SPAN_ROWS, count).

    False if the batch is malformed: the records must fill `data` exactly, and their offsets must rise and lie
    between those of the header.
    """
    at = np.int64(data.ctypes.data)
    end = at + len(data)
    shift -= at
    before = np.int64(base_offset - 1)
    for row in range(count):
        size, at = _varint(at, end)
        last = at + size
        if at < 0 or size < SMALLEST_RECORD_BYTES - 1 or last > end:
            return False
        delta_ms, at = _varint(at + 1, last)
        delta, at = _varint(at, last) if at >= 0 else (np.int64(0), np.int64(-1))
        key_size, at = _varint(at, last) if at >= 0 else (np.int64(0), np.int64(-1))
        if at < 0 or key_size > last - at:
            return False
        key_start = at
        value_size, at = _varint(at + max(key_size, 0), last)
        if at < 0 or value_size > last - at:
            return False
        value_start = at
        headers, at = _varint(at + max(value_size, 0), last)
        if at < 0 or headers < 0 or headers > last - at:
            return False
        if not _headers_end(at, last, headers):
            return False
        offset = base_offset + delta
        if offset <= before or offset > last_offset:
            return False
        before = offset
        spans[OFFSET, row] = offset
        spans[TIME_MS, row] = time_ms + delta_ms * has_delta_time
        spans[KEY_START, row], spans[KEY_SIZE, row] = shift + key_start, max(key_size, -1)
        spans[VALUE_START, row], spans[VALUE_SIZE, row] = shift + value_start, max(value_size, -1)
        spans[HEADERS_START, row], spans[HEADERS, row] = shift + at, headers
        at = last
    return at == end


@njit(inline="always")
def _headers_end(at: Any, end: Any, headers: Any) -> Any:
    """Tell whether so many headers end exactly where the record does."""
    for part in range(2 * headers):
        size, at = _varint(at, end)
        if at < 0 or size > end - at or (size < 0 and part % 2 == 0):
            return False
        at += max(size, 0)
    return at == end
