"""What benign keys have asked: a bounded sample of input sketches by class, and how close counts as the same.

Learned with `detectors.calibration`, searched by `detectors.signals.familiarity`. Needs to know which key an
input came from: a key's own inputs must not make it familiar, or old customers would look more so than new.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from detectors.batch import SKETCH_SIZE
from detectors.kernelcache import njit
from detectors.lanes import BLOCK, LANES, TOGETHER, project

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from detectors.base import Array

POINTS_PER_CLASS = 256
"""Input sketches kept of a class, evenly over the keys: the most that an event is compared with."""


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


def pad_points(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return points (32, P) with zeros behind: `detectors.lanes.project` reads a block at a time."""
    return np.ascontiguousarray(np.pad(points, ((0, 0), (0, BLOCK))))


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
    sketch: Array, rows: Array, own: Array, wanted: Array,
    points: Array, norms: Array, start: Array, distance: float, near: Array,
) -> None:  # fmt: skip
    """Tell of each wanted sketch, of those in the `rows` (n,), whether a point of its class is that near.

    `own` (n,) is its class, below `len(start) - 1`; `points` are as `pad_points` gives them, `norms` (P,)
    their squared lengths; `near` (n,) is False where the sketch is not wanted. Sketches of one class are
    compared together, so that its points are read once for several; what is found of one does not depend on
    the others.
    """
    near[:] = False
    end = np.zeros(len(start), np.int64)
    for i in range(len(own)):
        end[own[i] + 1] += wanted[i]
    end = np.cumsum(end)
    place, by_class = end[:-1].copy(), np.empty(end[-1], np.int64)
    for i in range(len(own)):
        if wanted[i]:
            by_class[place[own[i]]] = i
            place[own[i]] += 1
    some, columns = np.empty(TOGETHER, np.int64), np.empty((SKETCH_SIZE, TOGETHER), np.float32)
    limit, product = np.empty(TOGETHER, np.float32), np.empty((TOGETHER, LANES), np.float32)
    for c in range(len(start) - 1):
        for begin in range(end[c], end[c + 1], TOGETHER):
            for k in range(TOGETHER):
                some[k] = by_class[min(begin + k, end[c + 1] - 1)]
            _load_columns(sketch, rows, some, distance, columns, limit)
            _compare(columns, limit, points, norms, start[c], start[c + 1], some, product, near)


@njit(cache=True, nogil=True)
def _load_columns(
    sketch: Array, rows: Array, some: Array, distance: float, columns: Array, limit: Array
) -> None:
    """Write some sketches to columns, and to `limit` the squared distance less the sketches' lengths.

    |s - p|^2 = |s|^2 + |p|^2 - 2 s p takes half the work of the sum of squared differences.
    """
    limit[:] = np.float32(distance * distance)
    for j in range(SKETCH_SIZE):
        for k in range(TOGETHER):
            columns[j, k] = sketch[rows[some[k]], j]
            limit[k] -= columns[j, k] * columns[j, k]


@njit(cache=True, nogil=True)
def _compare(
    columns: Array, limit: Array, points: Array, norms: Array, first: int, last: int, some: Array,
    product: Array, near: Array,
) -> None:  # fmt: skip
    """Compare sketches, in columns, with points from `first` to `last`; write to `near` at `some`."""
    for begin in range(first, last, LANES):
        count = min(LANES, last - begin)
        project(points, begin, columns, 0, 0, count, product)
        found = 0
        for k in range(TOGETHER):
            near[some[k]] |= _is_any_near(norms[begin : begin + count], product[k], limit[k])
            found += near[some[k]]
        if found == TOGETHER:
            return


@njit(cache=True, nogil=True)
def _is_any_near(norms: Array, product: Array, limit: float) -> bool:
    hits = np.uint32(0)
    for p in range(len(norms)):  # counted, not asked one by one, so that many are compared at once
        hits += np.uint32(norms[p] - np.float32(2) * product[p] <= limit)
    return bool(hits > 0)


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
