"""Whether a code lies on a line between two remembered ones of different classes: what a line search asks.

Its first question is the middle of two inputs whose classes differ (Tramer et al., USENIX Security 2016; the
start of HopSkipJump, S&P 2020). Where those lie far apart, neither is near to it, so every pair is looked at
(`is_middle`). Twice the code less one end is the other end, give or take a rounding: entries are put into a
table by the cell they lie in, and what lies opposite to each is looked up there. Of true middles one in eight
is lost, where the rounding crosses the borders of cells.

Its further questions, and all of a search in steps that are no halves, lie between the nearest entry and
another (`is_between`).
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

__all__ = ["TABLE_SIZE", "is_between", "is_middle"]

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
_STRAIGHT = 0.9
"""Squared cosine of the angle that two entries make at a code between them. The rounding of a step of a tenth
of a pair distance bends a line as much; of unrelated ones one pair in two million is so straight."""
_STEEPEST = 7
"""Largest coordinate of a rounded direction: its twelve products with differences below 256 take 16 bits.
Rounding turns it by 14 degrees at most."""
_ROUGHLY_STRAIGHT = 0.7
"""`_STRAIGHT` is 18 degrees; with the 14 of a rounded direction, this."""


@intrinsic
def _stay_apart(_context: Any) -> Any:
    """Keep the function that calls this from being merged into its caller (LLVM's `noinline`)."""

    def generate(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.none(), generate


@njit(cache=True, nogil=True)
def is_middle(
    code: Array, memory: Array, page: int, length: int, filled: int, cells: Array, table: Array
) -> bool:
    """Tell whether two of a page's entries, of classes that differ, have their middle at a code.

    Parameters
    ----------
    code : int16 (RING_SIZE,)
    memory, page, length, filled
        The entries (`detectors.pages`): class in the upper four bits of what stands beside each.
    cells, table : uint16 (3, detectors.ringsearch.RING_LENGTH), uint8 (TABLE_SIZE,)
        To work in; what they hold does not matter.
    """
    _stay_apart()  # seldom called, and its caller is busy
    own, other, found = cells[0], cells[1], cells[2]
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
            if differs and _are_ends(code, memory, page, length, i, k):
                return True
    return False


@njit(cache=True, nogil=True)
def is_between(
    code: Array, memory: Array, page: int, length: int, filled: int, nearest: int, short: Array, room: Array
) -> bool:
    """Tell whether the nearest entry and another, of a class that differs, have a code between them.

    Parameters
    ----------
    code, memory, page, length, filled
        As for `is_middle`.
    nearest : int
        Where the nearest entry is in its page.
    short : uint16 (detectors.ringsearch.RING_LENGTH,)
        The entries' squared distances, as `nearest_entry` leaves them.
    room : int16 (detectors.ringsearch.RING_LENGTH,)
        To work in.
    """
    _stay_apart()
    products = room[:filled]
    length_squared = _project(code, memory, page, length, nearest, products)
    limit = np.float32(_ROUGHLY_STRAIGHT * length_squared)
    rough = 0
    for i in range(len(products)):
        product = np.float32(min(products[i], np.int16(0)))
        rough += int(product * product > limit * np.float32(short[i]))
    if rough == 0:
        return False
    tags = memory[page + RING_SIZE * length :]
    for i in range(len(products)):
        differs = (np.uint8(tags[i]) ^ np.uint8(tags[nearest])) >> 4 != 0
        if products[i] < 0 and differs and _is_straight(code, memory, page, length, i, nearest):
            return True
    return False


@njit(cache=True, nogil=True)
def _project(code: Array, memory: Array, page: int, length: int, nearest: int, products: Array) -> int:
    """Write the entries' products with the direction of the nearest; return that direction's squared length.

    Of the direction three bits and the sign are enough to leave out nearly all entries, in half the width.
    """
    largest = 1
    for j in range(RING_SIZE):
        largest = max(largest, abs(int(memory[page + j * length + nearest]) - int(code[j])))
    products[:] = 0
    length_squared = 0
    for j in range(RING_SIZE):
        row, own = memory[page + j * length :], np.int16(code[j])
        toward = int(np.rint(_STEEPEST * (int(row[nearest]) - int(own)) / largest))
        length_squared += toward * toward
        slope = np.int16(toward)
        for i in range(len(products)):
            products[i] += np.int16(np.int16(np.int16(row[i]) - own) * slope)
    return length_squared


@njit(cache=True, nogil=True)
def _is_straight(code: Array, memory: Array, page: int, length: int, i: int, nearest: int) -> bool:
    """Tell whether two entries lie on opposite sides of a code."""
    product, near, far = 0, 0, 0
    for j in range(RING_SIZE):
        own = int(code[j])
        a, b = int(memory[page + j * length + nearest]) - own, int(memory[page + j * length + i]) - own
        product, near, far = product + a * b, near + a * a, far + b * b
    return bool(product < 0 and float(product) * product > _STRAIGHT * near * far)


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
def _are_ends(code: Array, memory: Array, page: int, length: int, i: int, k: int) -> bool:
    """Tell whether two entries lie far apart and have their middle at a code."""
    error, apart = 0, 0
    for j in range(RING_SIZE - 1, -1, -1):  # the first coordinates are known to be near
        a, b = np.int64(memory[page + j * length + i]), np.int64(memory[page + j * length + k])
        error += int((a + b - 2 * code[j]) ** 2)
        if error >= _LARGEST_ERROR:
            return False
        apart += int((a - b) ** 2)
    return bool(apart >= _LEAST_APART)
