"""Comparing a key with other keys: from running means to the share of benign keys this odd.

Honest keys differ from each other far more than one key's events do, so a key's mean is standardised by a
random-effects model, z = (mean - mu) / sqrt(tau^2 + sigma^2 / mass), with tau^2 the variance between benign
keys and sigma^2 within one; and its largest z is compared with the largest z of each benign key over its
lifetime. The result is a surprise, -ln of the share of benign keys expected to get this far in their
lifetime: empirical among the keys known, an exponential tail (marked as extrapolated) beyond them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from detectors.kernelcache import njit
from detectors.prefetch import prefetch, slot_ahead

if TYPE_CHECKING:
    from detectors.base import Array

MINIMUM_MASS = 8.0
"""A statistic says nothing about a key before this many queries (less for horizon 1)."""


@njit(cache=True, nogil=True)
def standardise(
    mean: Array, mass: Array, horizons: Array, centre: Array, within: Array, between: Array, out: Array
) -> None:
    """Standardise running means (n, S) to z-values; -inf where the mass is below its minimum."""
    least = np.minimum(horizons, np.float32(MINIMUM_MASS))
    for i in range(len(mean)):
        for s in range(len(horizons)):
            variance = between[s] + within[s] / max(mass[i, s], least[s])
            z = (mean[i, s] - centre[s]) / np.sqrt(variance)
            out[i, s] = z if mass[i, s] >= least[s] else -np.float32(np.inf)


def tail(z: float, knots: Array, surprise: Array, slope: float) -> float:
    """Read the lifetime tail: linear between knots, growing by `slope` beyond the last; 0 below the first."""
    out = np.empty(1, np.float32)
    read_tail(np.array([z], np.float32), knots, surprise, np.float32(slope), out)
    return float(out[0])


@njit(cache=True, nogil=True)
def read_tail(z: Array, knots: Array, surprise: Array, slope: float, out: Array) -> None:
    """Do as `tail` does for many values (n,)."""
    floor, slopes = prepare(knots.reshape(1, -1), surprise.reshape(1, -1), np.array([slope], np.float32))
    for i in range(len(z)):
        out[i] = _read(z[i], knots, surprise, slopes[0]) if z[i] > floor[0] else np.float32(0)


@njit(cache=True, nogil=True)
def prepare(knots: Array, surprise: Array, slope: Array) -> tuple[Array, Array]:
    """Return of each tail (rows, K) the largest value that says nothing, and the slopes behind the knots."""
    floor, slopes = knots[:, 0].copy(), np.empty_like(knots)
    for row in range(len(knots)):
        for k in range(knots.shape[1] - 1):
            step = knots[row, k + 1] - knots[row, k]
            slopes[row, k] = (surprise[row, k + 1] - surprise[row, k]) / step
        slopes[row, -1] = slope[row]
        for k in range(knots.shape[1]):
            if surprise[row, k] != 0:
                break
            floor[row] = knots[row, k]
    return floor, slopes


@njit(cache=True, nogil=True)
def _read(z: float, knots: Array, surprise: Array, slopes: Array) -> Any:
    """Read a tail at a value above its first knot."""
    below = np.int32(0)
    for k in range(len(knots)):  # counted, not searched, so that many are compared at once
        below = np.int32(below + np.int32(knots[k] < z))
    low = below - 1
    return np.float32(surprise[low] + (z - knots[low]) * slopes[low])


@njit(cache=True, nogil=True)
def surprises(
    z: Array, family_of: Array, group_of: Array, knots: Array, table: Array, slope: Array, limit: float,
    by_statistic: Array, by_family: Array, overall: Array,
) -> None:  # fmt: skip
    """Turn z-values (n, S) into surprises per statistic (n, S), per family (n, F) and overall (n,).

    No surprise is more than `limit`.

    A family's is the largest of its statistics'. A group's largest is read in the group's own lifetime tail
    (rows after the statistics), so that many statistics do not mean many alarms; the overall one is the
    largest over groups, whose tables already stand for their shares of the budget.
    """
    statistics = z.shape[1]
    floor, slopes = prepare(knots, table, slope)
    largest = np.empty(len(knots) - statistics, np.float32)
    for i in range(len(z)):
        largest[:] = 0
        by_family[i] = 0
        for s in range(statistics):
            value = np.float32(0)
            if z[i, s] > floor[s]:
                value = _read(z[i, s], knots[s], table[s], slopes[s])
                by_family[i, family_of[s]] = max(by_family[i, family_of[s]], min(value, limit))
                largest[group_of[s]] = max(largest[group_of[s]], value)
            by_statistic[i, s] = min(value, limit)
        overall[i] = min(_largest_group(largest, knots, table, floor, slopes), limit)


@njit(cache=True, nogil=True)
def _largest_group(largest: Array, knots: Array, table: Array, floor: Array, slopes: Array) -> Any:
    """Read each group's largest surprise in its own tail, and return the largest of that."""
    overall, statistics = np.float32(0), len(knots) - len(largest)
    for g in range(len(largest)):
        row = statistics + g
        if largest[g] > floor[row]:
            overall = max(overall, _read(largest[g], knots[row], table[row], slopes[row]))
    return overall


@njit(cache=True, nogil=True)
def judge(
    mean: Array, mass: Array, slots: Array, horizons: Array, centre: Array, within: Array, between: Array,
    group_of: Array, knots: Array, table: Array, floor: Array, slopes: Array, limit: float,
    peak: Array, overall: Array,
) -> None:  # fmt: skip
    """Write how surprising each row's key is (n,), from its running means (n, S), and keep its peaks.

    As `standardise`, `note_peaks` and `surprises` one after the other; few rows are ever asked what they say
    in each tail. `prepare` is done before.
    """
    least = np.minimum(horizons, np.float32(MINIMUM_MASS))
    z, largest = np.empty(len(horizons), np.float32), np.empty(len(knots) - len(horizons), np.float32)
    for i in range(len(slots)):
        slot, speaks = slots[i], np.uint32(0)
        prefetch(peak, slot_ahead(slots, i))
        for s in range(len(z)):
            variance = between[s] + within[s] / max(mass[i, s], least[s])
            apart = (mean[i, s] - centre[s]) / np.sqrt(variance)
            z[s] = apart if mass[i, s] >= least[s] else -np.float32(np.inf)
            speaks += np.uint32(z[s] > floor[s])
            peak[slot, s] = max(peak[slot, s], z[s])
        overall[i] = 0
        if speaks:
            largest[:] = 0
            for s in range(len(z)):
                if z[s] > floor[s]:
                    value = _read(z[s], knots[s], table[s], slopes[s])
                    largest[group_of[s]] = max(largest[group_of[s]], value)
            overall[i] = min(_largest_group(largest, knots, table, floor, slopes), limit)


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
def repeat_levels(
    overall: Array, slots: Array, time_ms: Array, thresholds: Array, again_ms: int,
    level: Array, told_ms: Array, out: Array,
) -> None:  # fmt: skip
    """Let a key that goes on be told of again: `out` (n,) holds the levels newly reached, and gets more.

    A row whose key reached a level before, stands at one still and was last told of `again_ms` or longer ago
    gets the level at which it stands. `level` and `told_ms` (capacity,) are slabs.
    """
    for i in range(len(slots)):
        slot = slots[i]
        if out[i] == 0 and level[slot] > 0 and time_ms[i] >= told_ms[slot] + again_ms:
            for k in range(len(thresholds)):
                if overall[i] >= thresholds[k]:
                    out[i] = k + 1
        if out[i] > 0:
            told_ms[slot] = time_ms[i]


@njit(cache=True, nogil=True)
def note_levels(
    overall: Array, e_detector: Array, slots: Array, time_ms: Array, thresholds: Array, again_ms: int,
    promotion_surprise: float, promotion_e: float,
    level: Array, told_ms: Array, peak: Array, promoted: Array,
    levels: Array, strength: Array, promotions: Array,
) -> None:  # fmt: skip
    """Find the rows at which a key reaches a level or is told of again, and those that promote it.

    Surprises `overall` (n,) raise `level` (`raise_levels`, `repeat_levels`) and are kept in `peak`. A key is
    promoted by its `strength` (n,): its surprise, or `promotion_surprise` if that is more and one of its
    e-detectors (n, E), in log10, has reached `promotion_e`. `levels` and `promotions` (n,) get what is new.
    `level`, `told_ms`, `peak` and `promoted` (capacity,) are slabs.
    """
    raise_levels(overall, slots, thresholds, level, levels)
    repeat_levels(overall, slots, time_ms, thresholds, again_ms, level, told_ms, levels)
    for i in range(len(slots)):
        peak[slots[i]] = max(peak[slots[i]], overall[i])
        strength[i] = overall[i]
        for k in range(e_detector.shape[1]):
            if e_detector[i, k] >= promotion_e:
                strength[i] = max(strength[i], promotion_surprise)
        promotions[i] = strength[i] >= promotion_surprise and promoted[slots[i]] == 0
        if promotions[i]:
            promoted[slots[i]] = 1


@njit(cache=True, nogil=True)
def note_peaks(z: Array, slots: Array, peak: Array) -> None:
    """Keep the largest z-value of each statistic in the slab `peak` (capacity, S); never below 0."""
    for i in range(len(slots)):
        prefetch(peak, slot_ahead(slots, i))
        for s in range(z.shape[1]):
            peak[slots[i], s] = max(peak[slots[i], s], z[i, s])
