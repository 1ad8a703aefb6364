"""Comparing a key with other keys: from running means to the share of benign keys this odd.

Honest keys differ from each other far more than one key's events do, so a key's mean is standardised by a
random-effects model, z = (mean - mu) / sqrt(tau^2 + sigma^2 / mass), with tau^2 the variance between benign
keys and sigma^2 within one; and its largest z is compared with the largest z of each benign key over its
lifetime. The result is a surprise, -ln of the share of benign keys expected to get this far in their
lifetime: empirical among the keys known, an exponential tail (marked as extrapolated) beyond them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from detectors.base import Array

MINIMUM_MASS = 8.0
"""A statistic says nothing about a key before this many queries (less for horizon 1)."""


@njit(cache=True, nogil=True)
def standardise(
    mean: Array, mass: Array, horizons: Array, centre: Array, within: Array, between: Array, out: Array
) -> None:
    """Standardise running means (n, S) to z-values; -inf where the mass is below its minimum."""
    for i in range(len(mean)):
        for s in range(len(horizons)):
            if mass[i, s] < min(MINIMUM_MASS, horizons[s]):
                out[i, s] = -np.inf
            else:
                variance = between[s] + within[s] / mass[i, s]
                out[i, s] = (mean[i, s] - centre[s]) / np.sqrt(variance)


@njit(cache=True, nogil=True)
def tail(z: float, knots: Array, surprise: Array, slope: float) -> float:
    """Read the lifetime tail: linear between knots, growing by `slope` beyond the last; 0 below the first."""
    last = len(knots) - 1
    if not z > knots[0]:
        return 0.0
    if z >= knots[last]:
        return float(surprise[last] + (z - knots[last]) * slope)
    low, high = 0, last
    while high - low > 1:
        middle = (low + high) // 2
        if knots[middle] <= z:
            low = middle
        else:
            high = middle
    share = (z - knots[low]) / (knots[high] - knots[low])
    return float(surprise[low] + share * (surprise[high] - surprise[low]))


@njit(cache=True, nogil=True)
def surprises(
    z: Array, family_of: Array, group_of: Array, knots: Array, table: Array, slope: Array,
    by_statistic: Array, by_family: Array, overall: Array,
) -> None:  # fmt: skip
    """Turn z-values (n, S) into surprises per statistic (n, S), per family (n, F) and overall (n,).

    A family's is the largest of its statistics'. A group's largest is read in the group's own lifetime tail
    (rows after the statistics), so that many statistics do not mean many alarms; the overall one is the
    largest over groups, whose tables already stand for their shares of the budget.
    """
    statistics = z.shape[1]
    groups = len(knots) - statistics
    largest = np.empty(groups)
    for i in range(len(z)):
        largest[:] = 0.0
        by_family[i, :] = 0.0
        for s in range(statistics):
            value = tail(z[i, s], knots[s], table[s], slope[s])
            by_statistic[i, s] = value
            by_family[i, family_of[s]] = max(by_family[i, family_of[s]], value)
            largest[group_of[s]] = max(largest[group_of[s]], value)
        overall[i] = 0.0
        for g in range(groups):
            row = statistics + g
            surprise = tail(largest[g], knots[row], table[row], slope[row])
            overall[i] = max(overall[i], surprise)


@njit(cache=True, nogil=True)
def raise_levels(overall: Array, slots: Array, thresholds: Array, level: Array, out: Array) -> None:
    """Find the rows at which a key first reaches a level; `out` (n,) gets that level, else 0.

    `level` (capacity,) uint8 is the slab; `thresholds` ascend.
    """
    for i in range(len(slots)):
        slot = slots[i]
        out[i] = 0
        reached = 0
        for k in range(len(thresholds)):
            if overall[i] >= thresholds[k]:
                reached = k + 1
        if reached > level[slot]:
            level[slot] = reached
            out[i] = reached


@njit(cache=True, nogil=True)
def note_peaks(z: Array, slots: Array, peak: Array) -> None:
    """Keep the largest z-value of each statistic in the slab `peak` (capacity, S); never below 0."""
    for i in range(len(slots)):
        for s in range(z.shape[1]):
            peak[slots[i], s] = max(peak[slots[i], s], z[i, s])
