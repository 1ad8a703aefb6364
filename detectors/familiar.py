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
_STRIDE = 8


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
    points : float32 (P, 32), ordered by class row.
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
    return np.ascontiguousarray(sketch[np.concatenate(chosen)], np.float32), start


@njit(cache=True, nogil=True)
def _nearest(sketch: Array, row: Array, points: Array, start: Array, out: Array) -> None:
    for i in range(len(sketch)):
        best = np.float32(np.inf)
        for p in range(start[row[i]], start[row[i] + 1]):
            total = np.float32(0)
            for j in range(sketch.shape[1]):
                apart = sketch[i, j] - points[p, j]
                total += apart * apart
            best = min(best, total)
        out[i] = np.sqrt(best)


@njit(cache=True, nogil=True)
def is_near(sketch: Array, points: Array, first: int, last: int, distance: float) -> bool:
    """Tell whether a point of rows `first` to `last` lies within the distance of the sketch (32,)."""
    limit = np.float32(distance * distance)
    for p in range(first, last):
        total = np.float32(0)
        for block in range(0, len(sketch), _STRIDE):
            for j in range(block, block + _STRIDE):
                apart = sketch[j] - points[p, j]
                total += apart * apart
            if total > limit:
                break
        if total <= limit:
            return True
    return False
