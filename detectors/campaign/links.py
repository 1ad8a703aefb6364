"""Which keys belong together: groups of keys whose profiles point the same way.

A profile is a vector per key, 0 where nothing is known. Keys are linked by the cosine between profiles; the
densest spot is taken first (its pivot's neighbours, recentred once), then the next among the keys left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from detectors.kernelcache import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detectors.base import Array

PIVOTS = 256
"""Profiles tried as centres in one search; others are tried in later ones."""
MEMBERS = 4
"""Fewest keys of a group: fewer say nothing about how work is shared."""
MAX_GROUPS = 64
_ALONE = 1 << 18
"""Products with so many multiplications OpenBLAS does on one thread (GEMM_MULTITHREAD_THRESHOLD in
interface/gemm.c); the threads it starts for more spin on after each product, at the cost of a whole core."""


def multiply(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the product of two matrices, a few rows at a time, so that it stays on this thread."""
    rows = max(_ALONE // max(right.size, 1), 1)
    pieces = [left[start : start + rows] @ right for start in range(0, len(left), rows)]
    return np.concatenate(pieces) if pieces else np.empty((0, right.shape[1]), np.float32)


def directions(profiles: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale rows to unit length; a row of 0 stays."""
    length = np.linalg.norm(profiles, axis=1, keepdims=True)
    return np.asarray(profiles / np.maximum(length, 1e-9), np.float32)


def find_groups(profiles: NDArray[np.float32], cosine: float, turn: int) -> list[NDArray[np.int64]]:
    """Group rows whose profiles lie within a cosine of their group's centre, densest first.

    Parameters
    ----------
    profiles : float32 (k, d)
        One row a key.
    cosine
        Least cosine to the centre.
    turn
        Which pivots to try, when there are more rows than `PIVOTS`.

    Returns
    -------
    list of int64 arrays
        Rows of each group, ascending; no row is in two.
    """
    unit = directions(profiles)
    pivots = (turn * PIVOTS + np.arange(min(PIVOTS, len(unit)))) % max(len(unit), 1)
    near = multiply(unit, unit[pivots].T) >= cosine
    group = np.zeros(len(unit), np.int32)
    count = _group(unit, pivots, near, near.sum(axis=0), np.float32(cosine), group)
    return [np.flatnonzero(group == number) for number in range(1, count + 1)]


@njit(cache=True, nogil=True)
def _group(unit: Array, pivots: Array, near: Array, neighbours: Array, cosine: float, group: Array) -> int:
    """Give rows the number of their group, from 1, in `group`; return how many groups there are.

    `near` (k, pivots) marks the rows near each pivot, `neighbours` counts those of them that are free.
    """
    free, around, members = np.ones(len(unit), np.bool_), group > 0, group > 0
    found = 0
    while found < MAX_GROUPS:
        best, most = 0, np.int64(0)
        for pivot in range(len(pivots)):
            if neighbours[pivot] > most and free[pivots[pivot]]:
                best, most = pivot, neighbours[pivot]
        if most < MEMBERS:
            break
        around[:] = near[:, best] & free
        _gather(unit, around, free, cosine, members)
        if members.sum() >= MEMBERS:
            found += 1
            group[members] = found
        for row in np.flatnonzero(around | members):
            free[row] = False
            neighbours -= near[row]
    return found


@njit(cache=True, nogil=True)
def _gather(unit: Array, around: Array, free: Array, cosine: float, members: Array) -> None:
    """Mark the free rows within a cosine of the centre of the rows `around`."""
    centre = np.zeros(unit.shape[1], np.float32)
    for place in np.flatnonzero(around):
        centre += unit[place]
    least = cosine * np.sqrt(np.sum(centre * centre))
    for row in range(len(unit)):
        along = np.float32(0)
        for k in range(len(centre)):
            along += unit[row, k] * centre[k]
        members[row] = free[row] and along >= least


def agreement(profiles: NDArray[np.float32], fresh: NDArray[np.float32]) -> float:
    """Return the median cosine of fresh profiles (m, d) with the centre of the profiles linked by (k, d)."""
    if not len(fresh):
        return 0.0
    centre = directions(profiles).sum(axis=0)
    cosines = directions(fresh) @ (centre / max(float(np.linalg.norm(centre)), 1e-9))
    return float(np.median(cosines))
