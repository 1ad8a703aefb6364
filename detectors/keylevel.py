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
_ROWS = 128
"""Rows judged side by side."""


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
    tails = prepare(knots.reshape(1, -1), surprise.reshape(1, -1), np.array([slope], np.float32))
    _read(z, len(z), 0, tails, np.empty(len(z), np.int32), out)


@njit(cache=True, nogil=True)
def prepare(knots: Array, surprise: Array, slope: Array) -> tuple[Array, Array, Array, Array]:
    """Return of tails (rows, K) what reading them takes: knots, surprises, slopes behind them, floors.

    A floor (rows,) is the largest value that says nothing; knots below all floors are left out.
    """
    floor, slopes = knots[:, 0].copy(), np.empty_like(knots)
    silent = knots.shape[1]
    for row in range(len(knots)):
        for k in range(knots.shape[1] - 1):
            step = knots[row, k + 1] - knots[row, k]
            slopes[row, k] = (surprise[row, k + 1] - surprise[row, k]) / step
        slopes[row, -1] = slope[row]
        last = 0
        for k in range(knots.shape[1]):
            if surprise[row, k] != 0:
                break
            floor[row], last = knots[row, k], k
        silent = min(silent, last)
    return knots[:, silent:].copy(), surprise[:, silent:].copy(), slopes[:, silent:].copy(), floor


@njit(cache=True, nogil=True)
def _read(z: Array, count: int, row: int, tails: Any, below: Array, out: Array) -> None:
    """Read a row of prepared tails at the first values of `z`, side by side; 0 up to the floor.

    `below` is room for as many whole numbers.
    """
    knots, surprise, slopes, floor = tails[0][row], tails[1][row], tails[2][row], tails[3][row]
    below[:count] = -1
    odd = len(knots) % 4
    for k in range(odd):  # counted, not searched, so that many values are compared at once
        knot = knots[k]
        for i in range(count):
            below[i] = np.int32(below[i] + np.int32(knot < z[i]))
    for k in range(odd, len(knots), 4):
        first, second, third, fourth = knots[k], knots[k + 1], knots[k + 2], knots[k + 3]
        for i in range(count):
            two = np.int32(np.int32(first < z[i]) + np.int32(second < z[i]))
            four = np.int32(two + np.int32(np.int32(third < z[i]) + np.int32(fourth < z[i])))
            below[i] = np.int32(below[i] + four)
    for i in range(count):
        low = np.uint64(max(below[i], np.int32(0)))
        value = np.float32(surprise[low] + (z[i] - knots[low]) * slopes[low])
        out[i] = value if z[i] > floor else np.float32(0)


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
    rows, statistics = z.shape
    tails = prepare(knots, table, slope)
    largest = np.zeros((len(knots) - statistics, rows), np.float32)
    value, below = np.empty(rows, np.float32), np.empty(rows, np.int32)
    by_family[:] = 0
    for s in range(statistics):
        family, group = family_of[s], group_of[s]
        _read(z[:, s].copy(), rows, s, tails, below, value)
        for i in range(rows):
            by_statistic[i, s] = min(value[i], limit)
            by_family[i, family] = max(by_family[i, family], by_statistic[i, s])
            largest[group, i] = max(largest[group, i], value[i])
    _read_groups(largest, rows, tails, limit, below, value, overall)


@njit(cache=True, nogil=True)
def _read_groups(
    largest: Array, count: int, tails: Any, limit: float, below: Array, value: Array, overall: Array
) -> None:
    """Read each group's largest surprises (G, n) in its own tail, and write the largest over groups."""
    statistics = len(tails[0]) - len(largest)
    overall[:count] = 0
    for group in range(len(largest)):
        _read(largest[group], count, statistics + group, tails, below, value)
        for i in range(count):
            overall[i] = min(max(overall[i], value[i]), limit)


@njit(cache=True, nogil=True)
def judge(
    mean: Array, mass: Array, slots: Array, horizons: Array, centre: Array, within: Array, between: Array,
    group_of: Array, tails: Any, limit: float, peak: Array, overall: Array,
) -> None:  # fmt: skip
    """Write how surprising each row's key is (n,), from its running means (n, S), and keep its peaks.

    As `standardise`, `note_peaks` and `surprises` one after the other, with tails of `prepare`; few rows are
    ever asked what they say in each tail.
    """
    least, statistics = np.minimum(horizons, np.float32(MINIMUM_MASS)), len(horizons)
    z, columns = np.empty(statistics, np.float32), np.empty((statistics, _ROWS), np.float32)
    largest = np.empty((len(tails[0]) - statistics, _ROWS), np.float32)
    value, below = np.empty(_ROWS, np.float32), np.empty(_ROWS, np.int32)
    for start in range(0, len(slots), _ROWS):
        count = min(_ROWS, len(slots) - start)
        for row in range(count):
            i = start + row
            slot = slots[i]
            prefetch(peak, slot_ahead(slots, i))
            for s in range(statistics):
                variance = between[s] + within[s] / max(mass[i, s], least[s])
                apart = (mean[i, s] - centre[s]) / np.sqrt(variance)
                z[s] = apart if mass[i, s] >= least[s] else -np.float32(np.inf)
                peak[slot, s] = max(peak[slot, s], z[s])
            for s in range(statistics):
                columns[s, row] = z[s]
        largest[:] = 0
        for s in range(statistics):
            group = group_of[s]
            _read(columns[s], count, s, tails, below, value)
            for row in range(count):
                largest[group, row] = max(largest[group, row], value[row])
        _read_groups(largest, count, tails, limit, below, value, overall[start:])


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
    e-detectors (n, E) has reached `promotion_e`. `levels` and `promotions` (n,) get what is new.
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
