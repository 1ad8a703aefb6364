"""Which keys belong together: groups of keys whose profiles point the same way.

A profile is a vector per key, 0 where nothing is known. Keys are linked by the cosine between profiles; the
densest spot is taken first (its pivot's neighbours, recentred once), then the next among the keys left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

PIVOTS = 256
"""Profiles tried as centres in one search; others are tried in later ones."""
MEMBERS = 4
"""Fewest keys of a group: fewer say nothing about how work is shared."""
MAX_GROUPS = 64


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
    free = np.ones(len(unit), bool)
    pivots = (turn * PIVOTS + np.arange(min(PIVOTS, len(unit)))) % max(len(unit), 1)
    near = unit[pivots] @ unit.T >= cosine
    neighbours = near.sum(axis=1)
    groups: list[NDArray[np.int64]] = []
    while len(groups) < MAX_GROUPS and len(pivots):
        best = int(np.argmax(neighbours * free[pivots]))
        if neighbours[best] < MEMBERS or not free[pivots[best]]:
            break
        around = near[best] & free
        centre = unit[around].sum(axis=0)
        members = (unit @ centre >= cosine * np.linalg.norm(centre)) & free
        taken = np.flatnonzero(around | members)
        free[taken] = False
        neighbours -= near[:, taken].sum(axis=1)
        if members.sum() >= MEMBERS:
            groups.append(np.flatnonzero(members))
    return groups


def agreement(profiles: NDArray[np.float32], fresh: NDArray[np.float32]) -> float:
    """Return the median cosine of fresh profiles (m, d) with the centre of the profiles linked by (k, d)."""
    if not len(fresh):
        return 0.0
    centre = directions(profiles).sum(axis=0)
    cosines = directions(fresh) @ (centre / max(float(np.linalg.norm(centre)), 1e-9))
    return float(np.median(cosines))
