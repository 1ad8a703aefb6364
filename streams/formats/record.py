"""Binary records, one event a message, to columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from detectors.kernelcache import njit
from sinks.serving.formats import (
    FLOATS,
    INTEGERS,
    NAMES,
    RECORD_STRUCT,
    RECORD_VERSION,
    SKETCH_BYTES,
)
from streams.formats.base import size_fault
from streams.formats.batches import Decoded
from streams.formats.binary import EventColumns, NameTable, refuse
from streams.formats.names import intern_names
from streams.formats.sketches import read_sketches
from streams.formats.words import float32_of, load8, swap8
from streams.recordblock import VALUE_SIZE, VALUE_START

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streams.formats.base import Limits
    from streams.recordblock import RecordBlock

_FLAGS_AT, _KEY_AT, _TIME_AT, _PREFIX_AT, _INTEGERS_AT, _FLOATS_AT, _NAMES_AT = 1, 4, 20, 28, 36, 64, 80
_FORM = f"$: expected a binary record of version {RECORD_VERSION}, exactly as long as its sizes say"


def decode_records(block: RecordBlock, limits: Limits) -> Decoded:
    """Decode a block of binary records."""
    starts, sizes = block.spans[VALUE_START], block.spans[VALUE_SIZE]
    long_enough = (sizes >= RECORD_STRUCT.size) & (sizes <= limits.max_bytes)
    starts = np.where(long_enough, starts, 0)
    names = block.data[starts[:, np.newaxis] + _NAMES_AT + np.arange(len(NAMES) + 1)].astype(np.int64)
    flags = block.data[starts + _FLAGS_AT].astype(np.int64)
    sketches = SKETCH_BYTES * ((flags & 1) + (flags >> 1))
    formed = long_enough & (block.data[starts] == RECORD_VERSION) & (flags < 4) & (names[:, -1] == 0)
    formed &= sizes == RECORD_STRUCT.size + sketches + names.sum(axis=1)
    refused = [
        refuse(block, row, size_fault(int(sizes[row]), limits) or ("malformed", _FORM))
        for row in np.flatnonzero(~formed).tolist()
    ]
    rows = np.flatnonzero(formed)
    columns, tables = EventColumns(len(rows)), [NameTable() for _ in NAMES]
    columns.message[:], columns.row[:] = rows, -1
    _fill(
        block.data,
        starts[rows],
        columns.key,
        columns.key_epoch,
        columns.time_ms,
        columns.prefix_hash,
        columns.integers,
        columns.floats,
        *columns.sketches,
        columns.infinite,
    )
    ends = starts[rows] + RECORD_STRUCT.size + sketches[rows]
    for at, table in enumerate(tables):
        lengths = names[rows, at]
        index, found = intern_names(block.data, ends, np.where(lengths > 0, lengths, -1))
        columns.names[at] = np.array([*map(table.number, found), -1], np.int32)[index]
        ends += lengths
    decoded = columns.finish(block, tables, limits)
    rejections = sorted(refused + decoded.rejections, key=lambda rejection: rejection[0])
    return Decoded(decoded.batch, decoded.rows, rejections)


@njit(cache=True, nogil=True)
def _fill(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    key: NDArray[np.uint64],
    key_epoch: NDArray[np.uint16],
    time_ms: NDArray[np.int64],
    prefix_hash: NDArray[np.uint64],
    integers: NDArray[np.int32],
    floats: NDArray[np.float32],
    inputs: NDArray[np.float32],
    embeddings: NDArray[np.float32],
    infinite: NDArray[np.bool_],
) -> None:
    base = np.int64(data.ctypes.data)
    sketches = inputs, embeddings
    for row in range(len(starts)):
        at = base + starts[row]
        head = load8(at)
        flags = head >> np.uint64(8) & np.uint64(0xFF)
        key_epoch[row] = np.uint16(head >> np.uint64(16) & np.uint64(0xFFFF))
        key[row, 0], key[row, 1] = swap8(load8(at + _KEY_AT)), swap8(load8(at + _KEY_AT + 8))
        time_ms[row] = np.int64(load8(at + _TIME_AT))
        prefix_hash[row] = load8(at + _PREFIX_AT)
        for place in range(len(INTEGERS)):
            integers[place, row] = np.int32(load8(at + _INTEGERS_AT + 4 * place) & np.uint64(0xFFFFFFFF))
        for place in range(len(FLOATS)):
            floats[place, row] = float32_of(load8(at + _FLOATS_AT + 4 * place))
        sketch = at + _NAMES_AT + 4
        for place in range(2):
            if flags >> np.uint64(place) & np.uint64(1):
                here = slice(row, row + 1)
                read_sketches(sketch, sketches[place][here], infinite[place, here])
                sketch += SKETCH_BYTES
            else:
                sketches[place][row], infinite[place, row] = np.nan, False
