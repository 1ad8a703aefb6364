"""Products of sketches with a matrix, many rows side by side.

One vector instruction serves many rows, and a row's result does not depend on its neighbours. A matrix
product of a BLAS would: it rounds otherwise for other numbers of rows. All arrays are float32.

>>> for start in range(0, len(sketch), LANES):
...     load_lanes(sketch, row, centres, start, apart)
...     for k in range(matrix.shape[1]):
...         project(apart, matrix, k, 0, column)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from detectors.batch import SKETCH_SIZE
from detectors.kernelcache import njit

if TYPE_CHECKING:
    from detectors.base import Array

LANES = 64
"""Rows side by side."""


@njit(cache=True, nogil=True)
def load_lanes(sketch: Array, row: Array, centres: Array, start: int, apart: Array) -> None:
    """Write up to `LANES` sketches (n, 32) from `start` on, less their centres, to the columns of `apart`.

    `row` (n,) is each sketch's row among the centres; `apart` is (32, LANES).
    """
    for i in range(min(LANES, len(sketch) - start)):
        centre = row[start + i]
        for j in range(SKETCH_SIZE):
            apart[j, i] = sketch[start + i, j] - centres[centre, j]


@njit(cache=True, nogil=True, fastmath={"contract"})
def project(apart: Array, matrix: Array, k: int, first: int, out: Array) -> None:
    """Write the products of all lanes with column `k` of a matrix (32, m), from row `first` on, a 4th."""
    out[:] = 0
    for j in range(first, SKETCH_SIZE, 4):
        w0, w1, w2, w3 = matrix[j, k], matrix[j + 1, k], matrix[j + 2, k], matrix[j + 3, k]
        a0, a1, a2, a3 = apart[j], apart[j + 1], apart[j + 2], apart[j + 3]
        for i in range(LANES):
            out[i] = out[i] + a0[i] * w0 + a1[i] * w1 + a2[i] * w2 + a3[i] * w3
