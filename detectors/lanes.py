"""Products of sketches with a matrix, many rows side by side.

One vector instruction serves many rows, and a row's result does not depend on its neighbours. A matrix
product of a BLAS would: it rounds otherwise for other numbers of rows. All arrays are float32.

>>> for start in range(0, len(sketch), LANES):
...     count = load_lanes(sketch, row, centres, start, apart)
...     for k in range(0, matrix.shape[1], TOGETHER):
...         project(apart, matrix, k, 0, count, columns)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from detectors.batch import SKETCH_SIZE
from detectors.kernelcache import njit

if TYPE_CHECKING:
    from detectors.base import Array

LANES = 128
"""Rows side by side."""
TOGETHER = 4
"""Columns of a matrix that rows are multiplied with at once, so that these are read once for all of them."""


@njit(cache=True, nogil=True)
def load_lanes(sketch: Array, row: Array, centres: Array, start: int, apart: Array) -> int:
    """Write up to `LANES` sketches (n, 32) from `start` on, less their centres, to the columns of `apart`.

    `row` (n,) is each sketch's row among the centres; `apart` is (32, LANES). Return how many there were.
    """
    count = min(LANES, len(sketch) - start)
    for i in range(count):
        centre = row[start + i]
        for j in range(SKETCH_SIZE):
            apart[j, i] = sketch[start + i, j] - centres[centre, j]
    return count


@njit(cache=True, nogil=True, fastmath={"contract"})
def project(apart: Array, matrix: Array, k: int, first: int, count: int, out: Array) -> None:
    """Write the products of `count` lanes with columns `k` to `k + TOGETHER` of a matrix (32, m).

    The rows from `first` on, a multiple of four, count; `out` is (TOGETHER, LANES).
    """
    out[:, :count] = 0
    p0, p1, p2, p3 = out[0], out[1], out[2], out[3]
    for j in range(first, SKETCH_SIZE, 4):
        u, v, w, x = matrix[j], matrix[j + 1], matrix[j + 2], matrix[j + 3]
        u0, u1, u2, u3 = u[k], u[k + 1], u[k + 2], u[k + 3]
        v0, v1, v2, v3 = v[k], v[k + 1], v[k + 2], v[k + 3]
        w0, w1, w2, w3 = w[k], w[k + 1], w[k + 2], w[k + 3]
        x0, x1, x2, x3 = x[k], x[k + 1], x[k + 2], x[k + 3]
        a0, a1, a2, a3 = apart[j], apart[j + 1], apart[j + 2], apart[j + 3]
        for i in range(count):
            b0, b1, b2, b3 = a0[i], a1[i], a2[i], a3[i]
            p0[i] = p0[i] + b0 * u0 + b1 * v0 + b2 * w0 + b3 * x0
            p1[i] = p1[i] + b0 * u1 + b1 * v1 + b2 * w1 + b3 * x1
            p2[i] = p2[i] + b0 * u2 + b1 * v2 + b2 * w2 + b3 * x2
            p3[i] = p3[i] + b0 * u3 + b1 * v3 + b2 * w3 + b3 * x3
