"""Whether a code lies halfway between two remembered ones of different classes, however far apart they lie.

A line search (Tramer et al., USENIX Security 2016; the start of HopSkipJump, S&P 2020) first asks for the
middle of two inputs whose classes differ. Where those lie far apart, neither is near to it, so every pair has
to be looked at. Twice the code less one end is the other end, give or take a rounding; entries are put into a
table by the cell they lie in, and each entry's other end is looked up there. Of true middles one in eight
is lost, where the rounding crosses the borders of cells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from detectors.kernelcache import njit
from detectors.ringsearch import QUANTA_PER_PAIR, RING_SIZE

if TYPE_CHECKING:
    from detectors.base import Array

__all__ = ["TABLE_SIZE", "is_middle"]

_LEAST_APART = (0.4 * QUANTA_PER_PAIR) ** 2 * RING_SIZE
"""Squared distance of the ends: closer ones are frames or noise, whose middles mean nothing."""
TABLE_SIZE = 1024
_CELL_BITS = 3
"""A cell is 8 quanta wide; twice a rounded code less a rounded entry misses the other end's by 0.7."""
_WEIGHTS = (0x9E37, 0x79B1, 0x85EB, 0xCA77, 0xC2B3)
"""Odd numbers (Knuth, TAOCP 3, 6.4): a weighted sum of sixteen bits stands for a cell in five coordinates."""
_TABLE_SHIFT = np.uint16(6)
"""Its first bits, as many as `TABLE_SIZE` has, are the place in the table."""
_LARGEST_ERROR = 25
"""Squared distance of twice the middle from the sum of its ends: rounding gives 6 at the mean."""


@intrinsic
def _stay_apart(_context: Any) -> Any:
    """Keep the function that calls this from being merged into its caller (LLVM's `noinline`)."""

    def generate(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.none(), generate


@njit(cache=True, nogil=True)
def is_middle(
    code: Array, memory: Array, page: int, length: int, filled: int, room: Array, table: Array
) -> bool:
    """Tell whether two of a page's entries, of classes that differ, have their middle at a code.

    Parameters
    ----------
    code : int16 (RING_SIZE,)
    memory, page, length, filled
        The entries (`detectors.pages`): class in the upper four bits of what stands beside each.
    room, table : uint16 (3, detectors.ringsearch.RING_LENGTH), uint8 (TABLE_SIZE,)
        To work in; what they hold does not matter.
    """
    _stay_apart()  # seldom called, and its caller is busy
    own, other, found = room[0], room[1], room[2]
    _write_cells(code, memory, page, length, filled, own, other)
    count = np.uint64(filled)
    for i in range(count):
        table[own[i] >> _TABLE_SHIFT] = np.uint8(i)
    most = np.uint64(0)
    for i in range(count):  # without branches: nobody could guess them
        found[most] = i
        most += np.uint64(own[table[other[i] >> _TABLE_SHIFT]] == other[i])
    tags = memory[page + RING_SIZE * length :]
    for i in found[:most]:
        k = table[other[i] >> _TABLE_SHIFT]
        if k < count:  # else the table tells of an earlier call
            differs = (np.uint8(tags[i]) ^ np.uint8(tags[k])) >> 4 != 0
            if differs and _is_between(code, memory, page, length, i, k):
                return True
    return False


@njit(cache=True, nogil=True)
def _write_cells(
    code: Array, memory: Array, page: int, length: int, filled: int, own: Array, other: Array
) -> None:
    """Write the cells of the entries, and of what lies opposite to each."""
    own[:], other[:] = 0, 0
    for j in range(len(_WEIGHTS)):
        weight, twice, row = np.uint16(_WEIGHTS[j]), np.int16(2 * code[j]), memory[page + j * length :]
        for i in range(filled):
            entry = np.int16(row[i])
            own[i] += np.uint16(np.uint16(entry >> _CELL_BITS) * weight)
            other[i] += np.uint16(np.uint16(np.int16(twice - entry) >> _CELL_BITS) * weight)


@njit(cache=True, nogil=True)
def _is_between(code: Array, memory: Array, page: int, length: int, i: int, k: int) -> bool:
    """Tell whether a code is the middle of two entries that lie so far apart."""
    error, apart = 0, 0
    for j in range(RING_SIZE - 1, -1, -1):  # the first coordinates are known to be near
        a, b = np.int64(memory[page + j * length + i]), np.int64(memory[page + j * length + k])
        error += int((a + b - 2 * code[j]) ** 2)
        if error >= _LARGEST_ERROR:
            return False
        apart += int((a - b) ** 2)
    return bool(apart >= _LEAST_APART)
