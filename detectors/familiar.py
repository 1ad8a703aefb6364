"""What benign keys have asked: a bounded sample of input sketches by class, and how close counts as the same.

Learned with `detectors.calibration`, searched by `detectors.signals.familiarity`. Needs to know which key an
input came from: a key's own inputs must not make it familiar, or old customers would look more so than new.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from detectors.batch import SKETCH_SIZE
from detectors.kernelcache import njit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from detectors.base import Array

POINTS_PER_CLASS = 256
"""Input sketches kept of a class, evenly over the keys: the most that an event is compared with."""
_CHUNK = 128
"""Points compared at once."""
_TOGETHER = 4
"""Sketches compared at once."""


def learn_points(
    inputs: Sequence[NDArray[np.float32]],
    rows: Sequence[NDArray[np.int64]],
    row_count: int,
    familiar_ratio: float,
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    """Choose the points of each class, and the distance within which `familiar_ratio` of inputs have one.

    Parameters
    ----------
    inputs, rows
        Input sketches (m_k, 32) and class rows (m_k,), below `row_count`, of each benign key.
    familiar_ratio
        Share of the inputs of one half of the keys that are to be near a point of the other half.

    Returns
    -------
    points : float32 (32, P), one point a column, ordered by class row.
    start : int64 (row_count + 1,), where each row's points begin.
    distance : float32 (1,)
    """
    found = []
    for half in (0, 1):
        points, start = _choose(*_joined(inputs[half::2], rows[half::2]), row_count)
        sketch, row = _joined(inputs[1 - half :: 2], rows[1 - half :: 2])
        distance = np.empty(len(sketch), np.float32)
        _nearest(sketch, row, points, start, distance)
        found.append(distance[np.isfinite(distance)])
    known = np.concatenate(found)
    limit = np.quantile(known, familiar_ratio) if len(known) else 0.0
    return *_choose(*_joined(inputs, rows), row_count), np.array([limit], np.float32)


def _joined(
    inputs: Sequence[NDArray[np.float32]], rows: Sequence[NDArray[np.int64]]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Join keys, of which there may be none; leave out sketches that are absent."""
    sketch = np.concatenate([np.empty((0, SKETCH_SIZE), np.float32), *inputs])
    row = np.concatenate([np.empty(0, np.int64), *rows])
    good = np.isfinite(sketch).all(axis=1)
    return sketch[good], row[good]


def _choose(
    sketch: NDArray[np.float32], row: NDArray[np.int64], row_count: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Take at most `POINTS_PER_CLASS` sketches of each class, evenly over the keys in order."""
    chosen = []
    for c in range(row_count):
        members = np.flatnonzero(row == c)
        count = min(len(members), POINTS_PER_CLASS)
        chosen.append(members[np.linspace(0, len(members) - 1, count).astype(np.int64)])
    start = np.cumsum([0, *map(len, chosen)]).astype(np.int64)
    return np.ascontiguousarray(sketch[np.concatenate(chosen)].T, np.float32), start


@njit(cache=True, nogil=True)
def _nearest(sketch: Array, row: Array, points: Array, start: Array, out: Array) -> None:
    square = np.empty(POINTS_PER_CLASS, np.float32)
    for i in range(len(sketch)):
        count = start[row[i] + 1] - start[row[i]]
        _squares(sketch[i], points, start[row[i]], count, square)
        out[i] = np.inf
        for p in range(count):
            out[i] = min(out[i], np.sqrt(square[p]))


@njit(cache=True, nogil=True)
def find_near(
    sketch: Array, row: Array, wanted: Array, points: Array, norms: Array, start: Array, distance: float,
    near: Array,
) -> None:  # fmt: skip
    """Tell of each wanted sketch (n, 32) whether a point of its class row lies within the distance.

    `row` (n,) is below `len(start) - 1`; `norms` (P,) are the points' squared lengths; `near` (n,) is False
    where the sketch is not wanted. Sketches of one class are compared together, so that its points are read
    once for several; what is found of one does not depend on the others.
    """
    near[:] = False
    end = np.zeros(len(start), np.int64)
    for i in range(len(row)):
        end[row[i] + 1] += wanted[i]
    end = np.cumsum(end)
    place, rows = end[:-1].copy(), np.empty(end[-1], np.int64)
    for i in range(len(row)):
        if wanted[i]:
            rows[place[row[i]]] = i
            place[row[i]] += 1
    some = np.empty(_TOGETHER, np.int64)
    product = np.empty((_TOGETHER, _CHUNK), np.float32)
    for c in range(len(start) - 1):
        for begin in range(end[c], end[c + 1], _TOGETHER):
            for k in range(_TOGETHER):
                some[k] = rows[min(begin + k, end[c + 1] - 1)]
            _compare(sketch, some, points, norms, start[c], start[c + 1], distance, product, near)


@njit(cache=True, nogil=True, fastmath={"contract"})
def _compare(
    sketch: Array, some: Array, points: Array, norms: Array, first: int, last: int, distance: float,
    product: Array, near: Array,
) -> None:  # fmt: skip
    """Compare a few sketches with the points of columns `first` to `last`.

    |s - p|^2 = |s|^2 + |p|^2 - 2 s p takes half the work of the sum of squared differences.
    """
    limit = np.empty(_TOGETHER, np.float32)
    for k in range(_TOGETHER):
        limit[k] = np.float32(distance * distance)
        for j in range(SKETCH_SIZE):
            limit[k] -= sketch[some[k], j] * sketch[some[k], j]
    for begin in range(first, last, _CHUNK):
        count = min(_CHUNK, last - begin)
        _products(sketch, some, points, begin, count, product)
        found = 0
        for k in range(_TOGETHER):
            own, hits = norms[begin : begin + count], np.uint32(0)
            for p in range(count):  # counted, not asked one by one, so that many are compared at once
                hits += np.uint32(own[p] - np.float32(2) * product[k, p] <= limit[k])
            near[some[k]] |= hits > 0
            found += near[some[k]]
        if found == _TOGETHER:
            return


@njit(cache=True, nogil=True, fastmath={"contract"})
def _products(sketch: Array, some: Array, points: Array, begin: int, count: int, product: Array) -> None:
    """Write the products with some points: one point a lane, so that no sum is reordered."""
    end = begin + count
    product[:, :count] = 0
    p0, p1, p2, p3 = product[0], product[1], product[2], product[3]
    a, b, c, d = sketch[some[0]], sketch[some[1]], sketch[some[2]], sketch[some[3]]
    for j in range(0, SKETCH_SIZE, 4):
        c0, c1, c2, c3 = (
            points[j, begin:end],
            points[j + 1, begin:end],
            points[j + 2, begin:end],
            points[j + 3, begin:end],
        )
        a0, a1, a2, a3 = a[j], a[j + 1], a[j + 2], a[j + 3]
        b0, b1, b2, b3 = b[j], b[j + 1], b[j + 2], b[j + 3]
        e0, e1, e2, e3 = c[j], c[j + 1], c[j + 2], c[j + 3]
        d0, d1, d2, d3 = d[j], d[j + 1], d[j + 2], d[j + 3]
        for p in range(count):
            q0, q1, q2, q3 = c0[p], c1[p], c2[p], c3[p]
            p0[p] = p0[p] + a0 * q0 + a1 * q1 + a2 * q2 + a3 * q3
            p1[p] = p1[p] + b0 * q0 + b1 * q1 + b2 * q2 + b3 * q3
            p2[p] = p2[p] + e0 * q0 + e1 * q1 + e2 * q2 + e3 * q3
            p3[p] = p3[p] + d0 * q0 + d1 * q1 + d2 * q2 + d3 * q3


@njit(cache=True, nogil=True, inline="always")
def _squares(sketch: Array, points: Array, begin: int, count: int, square: Array) -> None:
    """Write the squared distances to some points: one point a lane, so that no sum is reordered."""
    square[:count] = 0
    for j in range(0, SKETCH_SIZE, 4):
        c0, c1 = points[j, begin : begin + count], points[j + 1, begin : begin + count]
        c2, c3 = points[j + 2, begin : begin + count], points[j + 3, begin : begin + count]
        s0, s1, s2, s3 = sketch[j], sketch[j + 1], sketch[j + 2], sketch[j + 3]
        for p in range(count):
            d0, d1, d2, d3 = s0 - c0[p], s1 - c1[p], s2 - c2[p], s3 - c3[p]
            square[p] = square[p] + d0 * d0 + d1 * d1 + d2 * d2 + d3 * d3
