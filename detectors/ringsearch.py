"""The entries of a key's page that lie nearest to a code: what `detectors.signals.near_duplicate` asks.

A code is `RING_SIZE` whole numbers, an entry as many bytes. Entries are compared side by side, coordinate by
coordinate, as a page holds them (`detectors.pages`). Written with vectors of LLVM: compiled from loops, the
sums go through memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from detectors.kernelcache import njit
from detectors.pages import LENGTHS
from detectors.vectors import constant, load, repeat, store, vector_function

if TYPE_CHECKING:
    from detectors.base import Array

__all__ = ["QUANTA_PER_PAIR", "RING_LENGTH", "RING_SIZE", "is_any_within", "nearest_entry"]

RING_LENGTH = LENGTHS[-1]
RING_SIZE = 12
QUANTA_PER_PAIR = 24.0
"""Of a code: one typical coordinate difference between two random queries is 24 steps of a byte."""
_SHORT_LIMIT = 0xFFFF
"""Squared distances below this are counted in 16 bits."""
_SHORT_CODE = 128
"""A coordinate that differs from those of all entries by less than 256, whose square takes 16 bits."""
_FIRST = 6
"""Coordinates that tell most entries to be too far."""
_AT_ONCE = LENGTHS[0]
"""Entries compared at once, whether they are filled or not: every page holds a multiple of so many."""


@njit(cache=True, nogil=True, inline="always")
def nearest_entry(
    code: Array,
    memory: Array,
    page: int,
    length: int,
    filled: int,
    position: int,
    short: Array,
    squared: Array,
) -> tuple[int, int]:
    """Return the nearest entry's squared distance and its lag; of equally near ones the latest."""
    nearest = int(_least_short(*_addresses(code, memory, page, short), length, filled))
    if nearest < _SHORT_LIMIT:
        return nearest, _latest(short, filled, position, np.uint16(nearest)) + 1
    _distances(code, memory, page, length, filled, squared)
    for place in range(filled):  # the lag, less one, takes the last eight bits
        squared[place] = np.int32(squared[place] * RING_LENGTH + ((position - 1 - place) % RING_LENGTH))
    best = int(_least(squared, filled))
    return best // RING_LENGTH, best % RING_LENGTH + 1


@njit(cache=True, nogil=True)
def _latest(short: Array, filled: int, position: int, nearest: Any) -> int:
    """Return how far back, less one, the latest entry of that distance lies."""
    none = np.uint16(RING_LENGTH)
    back, least = np.uint16(position - 1), none
    for place in range(filled):
        lag = np.uint16(np.uint16(back - np.uint16(place)) & np.uint16(RING_LENGTH - 1))
        least = min(least, lag if short[place] == nearest else none)
    return int(least)


@njit(cache=True, nogil=True, inline="always")
def is_any_within(
    code: Array,
    memory: Array,
    page: int,
    length: int,
    filled: int,
    limit: float,
    short: Array,
    squared: Array,
) -> bool:
    """Tell whether an entry's squared distance is less than the limit."""
    if limit > _SHORT_LIMIT or not _is_short(code):
        _distances(code, memory, page, length, filled, squared)
        return bool(_least(squared, filled) < limit)
    places = _addresses(code, memory, page, short)
    if _least_first(*places, length, filled) >= limit:
        return False
    return bool(_least_short(*places, length, filled) < limit)


@njit(cache=True, nogil=True, inline="always")
def _is_short(code: Array) -> bool:
    """Tell whether no coordinate is beyond `_SHORT_CODE`."""
    beyond = np.uint16(0)
    for j in range(RING_SIZE):
        beyond += np.uint16(abs(np.int16(code[j])) > _SHORT_CODE)
    return bool(beyond == 0)


@njit(cache=True, nogil=True, inline="always")
def _addresses(code: Array, memory: Array, page: int, short: Array) -> tuple[Any, Any, Any]:
    """Return where a code (int16), a page and room for its distances (uint16) lie."""
    return np.int64(code.ctypes.data), np.int64(memory.ctypes.data) + page, np.int64(short.ctypes.data)


@intrinsic
def _least_short(_context: Any, code: Any, page: Any, out: Any, length: Any, filled: Any) -> Any:
    """Write the squared distances of a code to the entries, uint16; return the least of those filled.

    A sum below `_SHORT_LIMIT` is exact, a larger one is that. Coordinates differ by less than 256.
    """
    return types.uint16(code, page, out, length, filled), _compare(RING_SIZE)


@intrinsic
def _least_first(_context: Any, code: Any, page: Any, out: Any, length: Any, filled: Any) -> Any:
    """Do as `_least_short` with the first coordinates only."""
    return types.uint16(code, page, out, length, filled), _compare(_FIRST)


def _compare(coordinates: int) -> Any:
    """Return what generates `_least_short`, for so many coordinates."""
    word, lanes = ir.IntType(64), ir.VectorType(ir.IntType(16), _AT_ONCE)
    none = constant(lanes, _SHORT_LIMIT)

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        code, page, out, length, filled = arguments
        add, least_of = (vector_function(builder, name, lanes) for name in ("uadd.sat", "umin"))
        own = [_spread(builder, code, k, lanes) for k in range(coordinates)]
        rows = [builder.add(page, builder.mul(length, word(k))) for k in range(coordinates)]
        least = cgutils.alloca_once_value(builder, none)

        def compare(first: Any) -> Any:
            sums = [
                _squares(builder, builder.add(row, first), one) for row, one in zip(rows, own, strict=True)
            ]
            while len(sums) > 1:
                pairs = zip(sums[::2], sums[1::2], strict=False)
                sums = [builder.call(add, pair) for pair in pairs] + sums[len(sums) // 2 * 2 :]
            place = builder.add(out, builder.mul(first, word(2)))
            store(builder, place, sums[0], align=2)
            return sums[0]

        def keep(found: Any) -> None:
            builder.store(builder.call(least_of, [found, builder.load(least)]), least)

        whole = builder.udiv(filled, word(_AT_ONCE))
        with cgutils.for_range(builder, whole, intp=word) as loop:
            keep(compare(builder.mul(loop.index, word(_AT_ONCE))))
        first = builder.mul(whole, word(_AT_ONCE))
        rest = builder.trunc(builder.sub(filled, first), lanes.element)
        with builder.if_then(builder.icmp_unsigned(">", rest, lanes.element(0))):
            place = ir.Constant(lanes, list(range(_AT_ONCE)))
            is_filled = builder.icmp_unsigned("<", place, repeat(builder, rest, lanes))
            keep(builder.select(is_filled, compare(first), none))
        return _least_lane(builder, builder.load(least))

    return generate


def _squares(builder: Any, place: Any, own: Any) -> Any:
    """Return the squares of the differences between a coordinate of a code and those at a place."""
    entries = ir.VectorType(ir.IntType(8), _AT_ONCE)
    values = load(builder, place, entries)
    apart = builder.sub(builder.sext(values, own.type), own)
    return builder.mul(apart, apart)


def _spread(builder: Any, code: Any, k: int, lanes: Any) -> Any:
    """Return a coordinate of a code in every lane."""
    own = load(builder, builder.add(code, code.type(2 * k)), lanes.element, align=2)
    return repeat(builder, own, lanes)


def _least_lane(builder: Any, values: Any) -> Any:
    kind, name = (
        ir.FunctionType(values.type.element, [values.type]),
        f"llvm.vector.reduce.umin.v{_AT_ONCE}i16",
    )
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [values])


@njit(cache=True, nogil=True)
def _distances(code: Array, memory: Array, page: int, length: int, filled: int, out: Array) -> None:
    """Write the squared distances of a code to the remembered ones, int32."""
    out[:filled] = 0
    for j in range(RING_SIZE):
        c, row = np.int32(code[j]), memory[page + j * length :]
        for i in range(filled):
            apart = np.int32(c - np.int32(row[i]))
            out[i] = np.int32(out[i] + np.int32(apart * apart))


@njit(cache=True, nogil=True)
def _least(values: Array, count: int) -> Any:
    """Return the smallest of the first values, int32."""
    least = np.int32(2**31 - 1)
    for place in range(count):
        least = min(least, values[place])
    return least
