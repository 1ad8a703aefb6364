"""How unusual a measurement of one quantity over time is, such as the requests to a model per minute.

For aggregates (a model's, a tenant's, a cohort's traffic) and promoted keys; a series costs `STATE_BYTES`.
One pass, nothing of the future: a row is scored before it is learned. Three views are added up:

Novelty of the value
    d / (d + range), d the distance to the nearest value known. 64 cells of equal width cover the values seen.
    A cell that is visited c times in quick succession stays known for ln(1 + c) / rate rows; a later visit
    takes its life from l to ln(1 + e^(rate l)) / rate. The width is a power of two and follows the range.
Novelty of the residual
    The same for the value minus the mean of its two hours of the week (UTC), once those means explain a
    good part of the spread.
Deviation
    |z| against an exponentially weighted mean and variance, up to `Z_CAP`: novelty alone is blind to an
    anomaly that repeats.

After a score that counts, only a higher one does within the next 100 rows: one incident, one alert.

Not a published formula. Measured on NAB by `tests/bench/nab_score.py`, whose tuning half set the constants;
they are counts of rows and ratios, so the unit of the values does not matter.
Blind to: a slow drift, which it follows, and an odd value that was often seen before.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from detectors.kernelcache import njit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from detectors.base import Array

CELLS = 64
SLOT_MS = 7_200_000
SLOTS = 84
"""Slots of two hours in a week."""

WARM_UP_ROWS = 100
"""Rows of a series without an opinion."""
TICK_ROWS = 16
"""Rows after which the lives of the cells are shortened by one."""
FORGET_RATE = 2e-4 * TICK_ROWS
"""Forgetting per tick: a value seen once stays known for 3,466 rows."""
MAX_LIFE = 4095
"""Ticks that a cell stays known at most: 65,520 rows."""
REFIT_ROWS = 512
"""Rows after which the width of the cells is reconsidered, besides whenever a value falls outside."""
RANGE_RATE = 1e-3
"""Share of its distance to the centre that an extreme loses per row; least weight of a row in the centre."""
PROFILE_RATE = 0.05
"""Least weight of a row in the mean of its slot of the week."""
PROFILE_ROWS = 2
"""Rows of a slot before its mean is used."""
SPREAD_RATE = 5e-4
"""Least weight of a row in the mean deviations that are compared."""
SPREAD_ROWS = 50
"""Residuals before the profile is used."""
EXPLAINED_RATIO = 0.25
"""Share of the mean deviation that the profile must explain."""
RESIDUAL_WEIGHT = 0.5
Z_RATE = 1 / 500
"""Least weight of a row in the mean and variance for z."""
Z_WEIGHT = 0.004
Z_CAP = 5.0
QUIET_ROWS = 100
"""Rows after a score in which only a higher one counts."""
MAX_VALUE = 1e30
"""Values further from zero than this are treated as missing."""
_MAX_CELL = 2.0**52
"""Cells are numbered below this, so that their numbers are exact as floats too."""
_VALUE, _RESIDUAL = 0, 1

STATE = np.dtype(
    [
        # Two memories: of values and of residuals.
        ("life", "u2", (2, CELLS)),  # ticks that a cell stays known, 0 for unknown
        ("exponent", "i4", (2,)),  # the width of a cell is 2 to this
        ("first", "i8", (2,)),  # the first cell begins at this many widths
        ("seen", "i8", (2,)),
        ("low", "f8", (2,)),
        ("high", "f8", (2,)),
        ("centre", "f8", (2,)),
        ("profile_mean", "f4", (SLOTS,)),
        ("profile_seen", "u1", (SLOTS,)),
        ("value_spread", "f8"),  # mean deviation from the centre
        ("residual_spread", "f8"),  # mean deviation from the profile
        ("mean", "f8"),
        ("variance", "f8"),
        ("record", "f8"),  # the last score that counted, and the rows since
        ("record_age", "i8"),
        ("last_time_ms", "i8"),
    ],
    align=True,
)
"""State of one series; all zero means fresh."""
STATE_BYTES = STATE.itemsize


class UnivariateDetector:
    """A fixed number of series, each scored on its own.

    Parameters
    ----------
    count
        Series that it holds.
    """

    def __init__(self, count: int = 1) -> None:
        self._state = np.zeros(count, STATE)

    def score(
        self, time_ms: NDArray[np.int64], value: NDArray[np.float64], series: NDArray[np.int64] | None = None
    ) -> NDArray[np.float32]:
        """Score each row, in order, and learn from it; any cut of the rows into calls gives the same.

        Parameters
        ----------
        time_ms : int64 (n,)
            Event time. Within a series it must grow.
        value : float64 (n,)
        series : int64 (n,), optional
            Number of the series of each row; without it all rows belong to series 0.

        Returns
        -------
        float32 (n,)
            0 is nothing new, about 0.03 and above is worth a look. NaN for no opinion: during the warm-up,
            and for a row that was ignored because its value is missing (NaN, infinite, beyond `MAX_VALUE`)
            or because it is not later than the last row of its series (a repetition or a late one).

        Raises
        ------
        ValueError
            If the arrays differ in length, or a series does not exist.
        """
        owner = np.zeros(len(time_ms), np.int64) if series is None else np.asarray(series, np.int64)
        if not len(time_ms) == len(value) == len(owner):
            raise ValueError(
                f"{len(time_ms)} times, {len(value)} values and {len(owner)} series do not match"
            )
        if len(owner) and not 0 <= owner.min() <= owner.max() < len(self._state):
            raise ValueError(
                f"series {owner.min()} to {owner.max()} asked for, 0 to {len(self._state) - 1} exist"
            )
        out = np.empty(len(owner), np.float32)
        _score(np.asarray(time_ms, np.int64), np.asarray(value, np.float64), owner, self._state, out)
        return out

    def forget(self, series: NDArray[np.int64]) -> None:
        """Make series fresh again, for other subjects to take their numbers."""
        self._state[series] = np.zeros((), STATE)

    def dump(self) -> dict[str, NDArray[Any]]:
        """Return the state as arrays of numbers, first axis the series (see `STATE`)."""
        return {name: self._state[name].copy() for name in STATE.fields or ()}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Replace the state by a dump of as many series.

        Raises
        ------
        ValueError
            If an array is absent, of another shape or type, or holds what no series can.
        """
        fresh = np.zeros(len(self._state), STATE)
        for name in STATE.fields or ():
            wanted = fresh[name]
            given = arrays.get(name)
            if given is None or (given.shape, given.dtype) != (wanted.shape, wanted.dtype):
                found = "nothing" if given is None else f"{given.dtype} {given.shape}"
                raise ValueError(f"{name}: expected {wanted.dtype} {wanted.shape}, found {found}")
            if given.dtype.kind == "f" and not np.isfinite(given).all():
                raise ValueError(f"{name}: not all numbers are finite")
            fresh[name] = given
        exponent, first = abs(fresh["exponent"]), abs(fresh["first"].astype(float))
        if (exponent > 500).any() or (first > 2 * _MAX_CELL).any():
            raise ValueError("exponent, first: beyond what the values of a series can be")
        if (fresh["seen"] < 0).any() or ((fresh["seen"] > 0) & ~fresh["life"].any(axis=2)).any():
            raise ValueError("seen, life: a memory that has seen values knows one at least")
        self._state = fresh


@njit(cache=True, nogil=True)
def _score(time_ms: Array, value: Array, series: Array, states: Array, out: Array) -> None:
    for i in range(len(series)):
        state = states[series[i]]
        fresh = state.seen[_VALUE] == 0
        # Written so that a NaN fails it.
        known = abs(value[i]) <= MAX_VALUE
        if not known or (not fresh and time_ms[i] <= state.last_time_ms):
            out[i] = np.nan
            continue
        state.last_time_ms = time_ms[i]
        raw = _advance(state, time_ms[i], value[i])
        out[i] = np.nan if state.seen[_VALUE] <= WARM_UP_ROWS else _once(state, raw)


@njit(cache=True, nogil=True)
def _advance(state: Any, time_ms: int, value: float) -> float:
    """Score a value and learn from it."""
    if (state.seen[_VALUE] + 1) % TICK_ROWS == 0:
        for memory in range(2):
            for cell in range(CELLS):
                state.life[memory, cell] -= min(state.life[memory, cell], 1)
    novelty = _novelty(state, _VALUE, value)
    if state.seen[_VALUE] == 1:
        state.mean = value
    deviation = value - state.mean
    scale = math.sqrt(state.variance)
    z = min(abs(deviation) / scale, Z_CAP) if scale > 0 else 0.0
    residual = _residual(state, time_ms, value)
    rate = max(1.0 / state.seen[_VALUE], Z_RATE)
    state.mean += rate * deviation
    state.variance = (1 - rate) * (state.variance + rate * deviation * deviation)
    rate = max(1.0 / state.seen[_VALUE], SPREAD_RATE)
    state.value_spread += rate * (abs(value - state.centre[_VALUE]) - state.value_spread)
    return float(novelty + RESIDUAL_WEIGHT * residual + Z_WEIGHT * z)


@njit(cache=True, nogil=True)
def _residual(state: Any, time_ms: int, value: float) -> float:
    """Score how new the distance to the week's profile is, where the profile says something."""
    slot = (time_ms // SLOT_MS) % SLOTS
    novelty: float = 0.0
    difference = value - state.profile_mean[slot]
    seen = state.profile_seen[slot]
    if seen >= PROFILE_ROWS:
        explains = state.residual_spread < (1 - EXPLAINED_RATIO) * state.value_spread
        novelty = _novelty(state, _RESIDUAL, difference)
        if state.seen[_RESIDUAL] <= SPREAD_ROWS or not explains:
            novelty = 0.0
        rate = max(1.0 / state.seen[_RESIDUAL], SPREAD_RATE)
        state.residual_spread += rate * (abs(difference) - state.residual_spread)
    state.profile_seen[slot] = min(seen + 1, 255)
    state.profile_mean[slot] += max(1.0 / (seen + 1), PROFILE_RATE) * difference
    return novelty


@njit(cache=True, nogil=True)
def _once(state: Any, raw: float) -> float:
    """Let a score through if none as high did lately."""
    state.record_age += 1
    if state.record_age > QUIET_ROWS:
        state.record = 0.0
    if raw <= state.record:
        return 0.0
    state.record = raw
    state.record_age = 0
    return raw


@njit(cache=True, nogil=True)
def _novelty(state: Any, memory: int, value: float) -> float:
    """Score how far the nearest known value is, 0 to 1 with 1/2 at the range's own length; then learn."""
    state.seen[memory] += 1
    seen = state.seen[memory]
    if seen == 1:
        state.exponent[memory] = math.frexp(max(abs(value) * 1e-5, 1e-9))[1]
        state.first[memory] = int(np.floor(math.ldexp(value, -state.exponent[memory]))) - CELLS // 2
        state.low[memory] = state.high[memory] = state.centre[memory] = value
    cell = _cell(state, memory, value)
    if cell < 0 or seen % REFIT_ROWS == 0:
        _refit(state, memory, value)
        cell = _cell(state, memory, value)
    novelty = 0.0
    life = state.life[memory]
    if seen > WARM_UP_ROWS and life[cell] == 0:
        width = math.ldexp(1.0, state.exponent[memory])
        novelty = _gap(life, cell, value / width - state.first[memory])
        novelty /= novelty + max((state.high[memory] - state.low[memory]) / width, 1.0)
    before = FORGET_RATE * life[cell]
    life[cell] = min(int((before + math.log1p(math.exp(-before))) / FORGET_RATE + 0.5), MAX_LIFE)
    state.centre[memory] += max(1.0 / seen, RANGE_RATE) * (value - state.centre[memory])
    centre = state.centre[memory]
    state.low[memory] = min(state.low[memory] + RANGE_RATE * (centre - state.low[memory]), value)
    state.high[memory] = max(state.high[memory] - RANGE_RATE * (state.high[memory] - centre), value)
    return novelty


@njit(cache=True, nogil=True)
def _gap(life: Array, cell: int, place: float) -> float:
    """Distance, in widths, from a place in an unknown cell to the nearest edge of a known one."""
    gap = np.inf
    for below in range(cell - 1, -1, -1):
        if life[below] > 0:
            gap = place - (below + 1)
            break
    for above in range(cell + 1, CELLS):
        if life[above] > 0:
            gap = min(gap, above - place)
            break
    return max(gap, 0.0)


@njit(cache=True, nogil=True)
def _cell(state: Any, memory: int, value: float) -> int:
    """Return the cell of a value, -1 if there is none."""
    place = np.floor(math.ldexp(value, -state.exponent[memory]))
    if abs(place) >= _MAX_CELL:
        return -1
    cell = int(place) - state.first[memory]
    return cell if 0 <= cell < CELLS else -1


@njit(cache=True, nogil=True)
def _refit(state: Any, memory: int, value: float) -> None:
    """Lay the cells anew: the known values and this one in the middle, over 3/8 to 3/4 of them.

    A wider cell takes the longest life of those it swallows, narrower ones inherit.
    """
    life = state.life[memory]
    known = np.flatnonzero(life)
    old = known + state.first[memory]
    low, high = old[0], old[-1]
    exponent = state.exponent[memory]
    shift = 0
    place = np.floor(math.ldexp(value, -exponent))
    while max(place, float(high >> shift)) - min(place, float(low >> shift)) >= CELLS * 3 // 4:
        shift = min(shift + 1, 62)
        exponent += 1
        place = np.floor(math.ldexp(value, -exponent))
    narrow = 0
    if shift == 0 and high > low:
        span = max(int(place), high) - min(int(place), low) + 1
        room = _MAX_CELL / max(abs(low), abs(high) + 1)
        while span << (narrow + 1) <= CELLS * 3 // 8 and 2.0 ** (narrow + 1) < room:
            narrow += 1
    lives = life[known]
    life[:] = 0
    if narrow > 0:
        exponent -= narrow
        low, high = low << narrow, ((high + 1) << narrow) - 1
        place = np.floor(math.ldexp(value, -exponent))
    else:
        low, high = low >> shift, high >> shift
    low, high = min(int(place), low), max(int(place), high)
    first = low - (CELLS - (high - low + 1)) // 2
    for i in range(len(old)):
        begin = (old[i] << narrow) >> shift
        for cell in range(begin - first, begin - first + (1 << narrow)):
            life[cell] = max(life[cell], lives[i])
    state.first[memory] = first
    state.exponent[memory] = exponent
