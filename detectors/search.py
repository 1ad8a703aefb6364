"""Where values lie in a sorted table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from detectors.kernelcache import njit

if TYPE_CHECKING:
    from detectors.base import Array

_CELLS = 2048


@njit(cache=True, nogil=True)
def cut_range(table: Array) -> Array:
    """Cut the range of a sorted table (k,) in even cells: where each begins among the entries, uint32."""
    low, scale = _grid(table)
    first = np.zeros(_CELLS + 1, np.uint32)
    for entry in table:
        first[_cell(entry, low, scale) + 1] += np.uint32(1)
    for cell in range(_CELLS):
        first[cell + 1] += first[cell]
    return first


@njit(cache=True, nogil=True)
def count_below(values: Array, table: Array, first: Array, out: Array) -> None:
    """Count the entries of a sorted table (k,) that are less than each value; none for NaN.

    As `numpy.searchsorted` on the left, ten times as fast: only the entries of a value's cell are compared
    with it (`first`, from `cut_range`). A number's cell never falls as the number grows, so this is exact.
    `values` and `table` are float32; `out` is uint32 (n,).
    """
    low, scale = _grid(table)
    for i in range(len(values)):
        value = values[i]
        if not value > low:
            out[i] = 0
            continue
        cell = _cell(value, low, scale)
        out[i] = _first_not_below(table, value, np.int64(first[cell]), np.int64(first[cell + 1]))


@njit(cache=True, nogil=True)
def _grid(table: Array) -> tuple[Any, Any]:
    """Return where the cells begin, and how many there are to a unit."""
    low = table[0] if len(table) else np.float32(0)
    span = table[-1] - low if len(table) else np.float32(0)
    return low, np.float32(_CELLS - 1) / span if span > 0 else np.float32(0)


@njit(cache=True, nogil=True, inline="always")
def _first_not_below(table: Array, value: float, begin: int, end: int) -> int:
    """Return the place of the first entry from `begin` to `end` that is not less than a value."""
    while begin < end:
        middle = (begin + end) >> 1
        if table[middle] < value:
            begin = middle + 1
        else:
            end = middle
    return begin


@njit(cache=True, nogil=True, inline="always")
def _cell(value: float, low: float, scale: float) -> int:
    place = (value - low) * scale
    return int(place) if place < _CELLS - 1 else _CELLS - 1
