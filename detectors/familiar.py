"""What benign keys have asked: a bounded sample of input sketches by class, and how close counts as the same.

Learned with `detectors.calibration`, searched by `detectors.signals.familiarity`. Needs to know which key an
input came from: a key's own inputs must not make it familiar, or old customers would look more so than new.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from detectors.batch import SKETCH_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from detectors.base import Array

POINTS_PER_CLASS = 256
"""Input sketches kept of a class, evenly over the keys: the most that an event is compared with."""
_CHUNK = 64
"""Points compared at once."""


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
def is_near(sketch: Array, points: Array, first: int, last: int, distance: float) -> bool:
    """Tell whether a point of columns `first` to `last` lies within the distance of the sketch (32,)."""
    limit = np.float32(distance * distance)
    square = np.empty(_CHUNK, np.float32)
    for begin in range(first, last, _CHUNK):
        count = min(_CHUNK, last - begin)
        _squares(sketch, points, begin, count, square)
        for p in range(count):
            if square[p] <= limit:
                return True
    return False


@njit(cache=True, nogil=True, inline="always")
def _squares(sketch: Array, points: Array, begin: int, count: int, square: Array) -> None:
    """Write the squared distances to some points: one point a lane, so that no sum is reordered."""
    square[:count] = 0
    for j in range(len(sketch)):
        place = sketch[j]
        column = points[j, begin : begin + count]
        for p in range(count):
            apart = place - column[p]
            square[p] += apart * apart
