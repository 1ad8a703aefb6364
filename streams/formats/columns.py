"""Columnar micro-batches, many events a message, to columns."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from detectors.batch import ABSENT
from detectors.kernelcache import njit
from sinks.serving.formats import (
    ABSENT_NAME,
    COLUMNS_MAGIC,
    COLUMNS_STRUCT,
    FLOATS,
    INTEGERS,
    MAX_EVENTS,
    MIN_EVENTS,
    NAMES,
    OPTIONAL,
    SKETCH_BYTES,
    SKETCHES,
)
from streams.formats.base import size_fault
from streams.formats.batches import Decoded
from streams.formats.binary import NO_NAME, EventColumns, NameTable, refuse
from streams.formats.sketches import read_sketches
from streams.formats.words import load4, load8, swap8
from streams.recordblock import VALUE_SIZE, VALUE_START

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from streams.formats.base import Limits
    from streams.recordblock import RecordBlock

_FORM = f"$: expected a micro-batch ({COLUMNS_MAGIC.decode()}), exactly as long as its header says"
_NAN_BITS = np.float32(np.nan).view(np.int32)
_REQUIRED_BYTES = 16 + 2 + 8 + 2
_BYTES = np.array(
    [2, 2, *(SKETCH_BYTES for _ in SKETCHES), *(4 for _ in INTEGERS), *(4 for _ in FLOATS), 8], np.int64
)
"""Of an event in each of `OPTIONAL`."""
_TENANT, _PLAN, _INPUT, _EMBEDDING = range(4)
_FIRST_INTEGER, _FIRST_FLOAT, _PREFIX = 4, 4 + len(INTEGERS), 4 + len(INTEGERS) + len(FLOATS)


class _Place(NamedTuple):
    """Where a message's columns lie."""

    message: int
    events: int
    mask: int
    start: int
    """Of the first column."""
    maps: tuple[NDArray[np.int32], ...]
    """The numbers of its models, tenants and plans."""


def decode_columns(block: RecordBlock, limits: Limits) -> Decoded:
    """Decode a block of micro-batches."""
    tables = [NameTable() for _ in NAMES]
    known: dict[bytes, tuple[NDArray[np.int32], ...] | None] = {}
    places, refused = [], []
    for row in range(len(block)):
        fault = size_fault(int(block.spans[VALUE_SIZE, row]), limits)
        place = None if fault else _place(block, row, tables, known)
        if place is None:
            refused.append(refuse(block, row, fault or ("malformed", _FORM)))
        else:
            places.append(place)
    columns = EventColumns(sum(place.events for place in places))
    first = 0
    for place in places:
        _copy(block, place, columns, first)
        first += place.events
    decoded = columns.finish(block, tables, limits)
    rejections = sorted(refused + decoded.rejections, key=lambda rejection: rejection[0])
    return Decoded(decoded.batch, decoded.rows, rejections)


def _place(
    block: RecordBlock,
    row: int,
    tables: Sequence[NameTable],
    known: dict[bytes, tuple[NDArray[np.int32], ...] | None],
) -> _Place | None:
    """Check a message's form; None if it has another."""
    start, size = int(block.spans[VALUE_START, row]), int(block.spans[VALUE_SIZE, row])
    if size < COLUMNS_STRUCT.size:
        return None
    magic, events, mask, names_bytes = COLUMNS_STRUCT.unpack_from(block.data.data, start)
    if magic != COLUMNS_MAGIC or not MIN_EVENTS <= events <= MAX_EVENTS or mask >> len(OPTIONAL):
        return None
    if size != COLUMNS_STRUCT.size + names_bytes + events * _event_bytes(mask):
        return None
    start += COLUMNS_STRUCT.size
    names = block.data[start : start + names_bytes].tobytes()
    if names not in known:
        known[names] = _read_names(names, tables)
    maps = known[names]
    return None if maps is None else _Place(row, events, mask, start + names_bytes, maps)


@lru_cache(maxsize=256)
def _event_bytes(mask: int) -> int:
    """Return what an event takes in the columns that a message has."""
    return _REQUIRED_BYTES + sum(int(_BYTES[bit]) for bit in range(len(OPTIONAL)) if mask >> bit & 1)


def _read_names(names: bytes, tables: Sequence[NameTable]) -> tuple[NDArray[np.int32], ...] | None:
    """Return the numbers of a message's names; None if they are malformed."""
    at, maps = 0, []
    for table in tables:
        count = int.from_bytes(names[at : at + 2], "little")
        if at + 2 + count > len(names):
            return None
        at += 2
        numbers = np.empty(count, np.int32)
        for index in range(count):
            if at >= len(names) or at + 1 + names[at] > len(names):
                return None
            numbers[index] = table.number(names[at + 1 : at + 1 + names[at]])
            at += 1 + names[at]
        maps.append(numbers)
    return tuple(maps) if at == len(names) else None


def _copy(block: RecordBlock, place: _Place, columns: EventColumns, first: int) -> None:
    """Copy a message's columns to where its events begin."""
    columns.message[first : first + place.events] = place.message
    _fill(
        block.data,
        place.start,
        place.mask,
        first,
        place.events,
        _BYTES,
        *place.maps,
        columns.row,
        columns.key,
        columns.key_epoch,
        columns.time_ms,
        columns.prefix_hash,
        columns.integers,
        columns.floats.view(np.int32),
        columns.names,
        *columns.sketches,
        columns.infinite,
    )


@njit(cache=True, nogil=True)
def _fill(
    data: NDArray[np.uint8],
    start: int,
    mask: int,
    first: int,
    events: int,
    sizes: NDArray[np.int64],
    models: NDArray[np.int32],
    tenants: NDArray[np.int32],
    plans: NDArray[np.int32],
    row: NDArray[np.int64],
    key: NDArray[np.uint64],
    key_epoch: NDArray[np.uint16],
    time_ms: NDArray[np.int64],
    prefix_hash: NDArray[np.uint64],
    integers: NDArray[np.int32],
    floats: NDArray[np.int32],
    names: NDArray[np.int32],
    inputs: NDArray[np.float32],
    embeddings: NDArray[np.float32],
    infinite: NDArray[np.bool_],
) -> None:
    base, end = np.int64(data.ctypes.data), first + events
    at = base + start
    models_at, tenants_at = np.int64(models.ctypes.data), np.int64(tenants.ctypes.data)
    plans_at = np.int64(plans.ctypes.data)
    epochs, times, model = at + 16 * events, at + 18 * events, at + 26 * events
    for i in range(events):
        to = first + i
        row[to] = i
        key[to, 0], key[to, 1] = swap8(load8(at + 16 * i)), swap8(load8(at + 16 * i + 8))
        key_epoch[to] = np.uint16(load8(epochs + 2 * i) & np.uint64(0xFFFF))
        time_ms[to] = np.int64(load8(times + 8 * i))
        names[0, to] = _name(load8(model + 2 * i), models_at, len(models))
    at += 28 * events
    for bit in range(len(sizes)):
        if mask >> bit & 1:
            if bit == _TENANT:
                for i in range(events):
                    names[1, first + i] = _name(load8(at + 2 * i), tenants_at, len(tenants))
            elif bit == _PLAN:
                for i in range(events):
                    names[2, first + i] = _name(load8(at + 2 * i), plans_at, len(plans))
            elif bit == _INPUT:
                read_sketches(at, inputs[first:end], infinite[0, first:end])
            elif bit == _EMBEDDING:
                read_sketches(at, embeddings[first:end], infinite[1, first:end])
            elif bit < _FIRST_FLOAT:
                for i in range(events):
                    integers[bit - _FIRST_INTEGER, first + i] = np.int32(load4(at + 4 * i))
            elif bit < _PREFIX:
                for i in range(events):
                    floats[bit - _FIRST_FLOAT, first + i] = np.int32(load4(at + 4 * i))
            else:
                for i in range(events):
                    prefix_hash[first + i] = load8(at + 8 * i)
            at += sizes[bit] * events
        else:
            _clear(bit, first, end, prefix_hash, integers, floats, names, inputs, embeddings, infinite)


@njit(inline="always")
def _clear(
    bit: Any,
    first: Any,
    end: Any,
    prefix_hash: Any,
    integers: Any,
    floats: Any,
    names: Any,
    inputs: Any,
    embeddings: Any,
    infinite: Any,
) -> None:
    """Say of a column that the message does not have: absent."""
    if bit < _INPUT:
        names[1 + bit, first:end] = ABSENT
    elif bit == _INPUT:
        inputs[first:end], infinite[0, first:end] = np.nan, False
    elif bit == _EMBEDDING:
        embeddings[first:end], infinite[1, first:end] = np.nan, False
    elif bit < _FIRST_FLOAT:
        integers[bit - _FIRST_INTEGER, first:end] = ABSENT
    elif bit < _PREFIX:
        floats[bit - _FIRST_FLOAT, first:end] = _NAN_BITS
    else:
        prefix_hash[first:end] = 0


@njit(inline="always")
def _name(word: Any, numbers: Any, count: Any) -> Any:
    """Return a name's number by its index in the message; `numbers` is the address of `count` of them."""
    index = np.int64(word & np.uint64(0xFFFF))
    if index == ABSENT_NAME:
        return np.int32(-1)
    return np.int32(load4(numbers + 4 * index)) if index < count else np.int32(NO_NAME)
