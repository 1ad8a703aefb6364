"""Names of models, tenants and plans: from spans in a buffer to indices into the distinct ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from detectors.batch import ABSENT
from detectors.kernelcache import njit
from streams.formats.words import hash_span, is_equal

if TYPE_CHECKING:
    from numpy.typing import NDArray

Names = tuple[str, ...]


def intern_names(
    data: NDArray[np.uint8], starts: NDArray[np.int64], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.int32], tuple[bytes, ...]]:
    """Return an index per row (n,), `ABSENT` where the size is negative, and the distinct names by it.

    Distinct names stand in order of appearance, so that nothing depends on how a stream is cut.
    """
    table = np.zeros(1 << max(4, int(2 * len(starts)).bit_length()), np.int32)
    index, firsts = _intern(data, starts, sizes, table)
    spans = zip(starts[firsts].tolist(), sizes[firsts].tolist(), strict=True)
    return index, tuple(data[start : start + size].tobytes() for start, size in spans)


@njit(cache=True, nogil=True)
def _intern(
    data: NDArray[np.uint8], starts: NDArray[np.int64], sizes: NDArray[np.int64], table: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Fill an open-addressing table of (number of a distinct name + 1); return indices and first rows."""
    base = np.int64(data.ctypes.data)
    mask = np.uint64(len(table) - 1)
    index = np.empty(len(starts), np.int32)
    firsts = np.empty(len(starts), np.int64)
    found = 0
    for row in range(len(starts)):
        if sizes[row] < 0:
            index[row] = ABSENT
            continue
        place = hash_span(base + starts[row], sizes[row]) >> np.uint64(20) & mask
        while table[place] != 0:
            first = firsts[table[place] - 1]
            if sizes[first] == sizes[row] and is_equal(base + starts[first], base + starts[row], sizes[row]):
                break
            place = (place + np.uint64(1)) & mask
        if table[place] == 0:
            firsts[found] = row
            found += 1
            table[place] = found
        index[row] = table[place] - 1
    return index, firsts[:found]


def renumber(index: NDArray[np.int32], names: Names) -> tuple[NDArray[np.int32], Names]:
    """Return the same names by row, with equal names as one, in order of appearance."""
    if not names:
        return index, names
    order = np.empty(len(names), np.int32)
    found = _appearances(index, order)
    if found == len(names) == len(set(names)) and (order == np.arange(found)).all():
        return index, names
    new: dict[str, int] = {}
    numbers = np.full(len(names) + 1, ABSENT, np.int32)  # the last one stands for ABSENT
    for old in order[:found].tolist():
        numbers[old] = new.setdefault(names[old], len(new))
    return numbers[index], tuple(new)


@njit(cache=True, nogil=True)
def _appearances(index: NDArray[np.int32], order: NDArray[np.int32]) -> int:
    """Write the numbers of names in the order in which rows have them; return how many they are."""
    seen, found = np.zeros(len(order), np.bool_), 0
    for row in range(len(index)):
        number = index[row]
        if number != ABSENT and not seen[number]:
            seen[number] = True
            order[found] = number
            found += 1
            if found == len(order):
                break
    return found
