"""Which format each message of a block is in, by its `mw-format` header."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from detectors.kernelcache import njit
from sinks.serving.formats import COLUMNS, FORMAT_HEADER, JSON, RECORD
from streams.formats.words import load1
from streams.recordblock import HEADERS, HEADERS_START, OFFSET

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streams.recordblock import RecordBlock

IS_JSON, IS_RECORD, IS_COLUMNS, IS_UNKNOWN, IS_DAMAGED = range(5)
KNOWN = (JSON, RECORD, COLUMNS)

_TEXTS = tuple(np.frombuffer(text, np.uint8) for text in (FORMAT_HEADER.encode(), *KNOWN))


def read_formats(block: RecordBlock) -> NDArray[np.uint8]:
    """Return each message's format; the last such header counts, if there are several."""
    headers = block.spans[HEADERS]
    if not headers.any() and not block.faults:
        return np.zeros(len(block), np.uint8)
    formats = np.zeros(len(block), np.uint8)
    _read(block.data, block.spans[HEADERS_START], headers, *_TEXTS, formats)
    if block.faults:
        formats[np.isin(block.spans[OFFSET], list(block.faults))] = IS_DAMAGED
    return formats


@njit(cache=True, nogil=True)
def _read(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    counts: NDArray[np.int64],
    name: NDArray[np.uint8],
    json: NDArray[np.uint8],
    record: NDArray[np.uint8],
    columns: NDArray[np.uint8],
    formats: NDArray[np.uint8],
) -> None:
    base = np.int64(data.ctypes.data)
    name_at, json_at = np.int64(name.ctypes.data), np.int64(json.ctypes.data)
    record_at, columns_at = np.int64(record.ctypes.data), np.int64(columns.ctypes.data)
    for row in range(len(starts)):
        at = base + starts[row]
        for _ in range(counts[row]):
            size, at = _size(at)
            is_ours = _is_text(at, size, name_at, len(name))
            size, at = _size(at + size)
            if is_ours:
                if _is_text(at, size, json_at, len(json)):
                    formats[row] = IS_JSON
                elif _is_text(at, size, record_at, len(record)):
                    formats[row] = IS_RECORD
                elif _is_text(at, size, columns_at, len(columns)):
                    formats[row] = IS_COLUMNS
                else:
                    formats[row] = IS_UNKNOWN
            at += size


@njit(inline="always")
def _size(at: Any) -> Any:
    """Return a zigzag varint, 0 for a negative one, and the place behind it; the block was checked."""
    value, shift = np.uint64(0), np.uint64(0)
    while True:
        byte = np.uint64(load1(at))
        at += 1
        value |= (byte & np.uint64(127)) << shift
        shift += np.uint64(7)
        if byte < np.uint64(128):
            break
    return np.int64(0) if value & np.uint64(1) else np.int64(value >> np.uint64(1)), at


@njit(inline="always")
def _is_text(at: Any, size: Any, wanted: Any, wanted_size: Any) -> Any:
    if size != wanted_size:
        return False
    for step in range(size):  # noqa: SIM110 - numba knows no generators
        if load1(at + step) != load1(wanted + step):
            return False
    return True
