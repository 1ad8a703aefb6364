"""The entries of a key's page that lie nearest to a code: what `detectors.signals.near_duplicate` asks.

A code is `RING_SIZE` whole numbers, an entry as many bytes. Entries are compared side by side, coordinate by
coordinate, as a page holds them (`detectors.pages`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from detectors.kernelcache import njit
from detectors.pages import LENGTHS

if TYPE_CHECKING:
    from detectors.base import Array

__all__ = ["RING_LENGTH", "RING_SIZE", "is_any_within", "nearest_entry"]

RING_LENGTH = LENGTHS[-1]
RING_SIZE = 12
_SHORT_LIMIT = 0xFFFF
"""Squared distances below this are counted in 16 bits."""
_SHORT_CODE = 128
"""A coordinate that differs from those of all entries by less than 256, whose square takes 16 bits."""
_STRIDE = 6
"""Coordinates compared at once."""
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
    for j in range(0, RING_SIZE, _STRIDE):
        _add_short(code, memory, page, length, filled, j, short)
    nearest = int(_least_short(short, filled))
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
    for j in range(0, RING_SIZE, _STRIDE):
        _add_short(code, memory, page, length, filled, j, short)
        if _least_short(short, filled) >= limit:
            return False
    return True


@njit(cache=True, nogil=True, inline="always")
def _is_short(code: Array) -> bool:
    """Tell whether no coordinate is beyond `_SHORT_CODE`."""
    beyond = np.uint16(0)
    for j in range(RING_SIZE):
        beyond += np.uint16(abs(np.int16(code[j])) > _SHORT_CODE)
    return bool(beyond == 0)


@njit(cache=True, nogil=True, inline="always")
def _short_square(a: int, b: int) -> Any:
    """Return the square of a difference of coordinates that is less than 256."""
    apart = np.int16(a - b)
    return np.uint16(apart * apart)


@njit(cache=True, nogil=True, inline="always")
def _add_saturated(a: Any, b: Any) -> Any:
    """Return a sum, `_SHORT_LIMIT` if it is more; one instruction for many."""
    room = np.uint16(np.uint16(0xFFFF) - a)
    return np.uint16(a + min(b, room))


@njit(cache=True, nogil=True)
def _add_short(code: Array, memory: Array, page: int, length: int, filled: int, j: int, out: Array) -> None:
    """Add the squares of `_STRIDE` coordinates from `j` on; from 0 on, begin with them.

    In 16 bits twice as many are counted side by side as in 32. A sum below `_SHORT_LIMIT` is exact.
    """
    c0, c1, c2 = code[j], code[j + 1], code[j + 2]
    c3, c4, c5 = code[j + 3], code[j + 4], code[j + 5]
    kept = np.uint16(0xFFFF if j > 0 else 0)
    step = np.uint64(length)
    r0 = np.uint64(page + j * length)  # unsigned: numba would look for negative indices otherwise
    r1, r2, r3, r4, r5 = (
        r0 + step,
        r0 + step + step,
        r0 + step * np.uint64(3),
        r0 + step * np.uint64(4),
        r0 + step * np.uint64(5),
    )
    for i in range(np.uint64((filled + _AT_ONCE - 1) // _AT_ONCE * _AT_ONCE)):
        first = _add_saturated(_short_square(c0, memory[r0 + i]), _short_square(c1, memory[r1 + i]))
        second = _add_saturated(_short_square(c2, memory[r2 + i]), _short_square(c3, memory[r3 + i]))
        third = _add_saturated(_short_square(c4, memory[r4 + i]), _short_square(c5, memory[r5 + i]))
        before = _add_saturated(np.uint16(out[i] & kept), third)
        out[i] = _add_saturated(before, _add_saturated(first, second))


@njit(cache=True, nogil=True)
def _least_short(values: Array, count: int) -> Any:
    """Return the smallest of the first values, uint16."""
    least = np.uint16(0xFFFF)
    for place in range(count):
        least = min(least, values[place])
    return least


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
