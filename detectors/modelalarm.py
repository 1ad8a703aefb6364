"""An alarm for a model as a whole: several keys at once are odd, though each alone could be a customer.

Distillation inside one key often looks like use; a model's traffic of which a quarter is distillation does
not look like its customers'. The window is the model's last `WINDOW` events. Every key in it brings its own
surprise (-ln p, `detectors.keylevel`), capped, and counts by its events in the window, at most `KEY_EVENTS`:

    z = sum over keys of w (s - mean) / (sd sqrt(sum of w^2))

the sum without its `TRIMMED_KEYS` largest terms, so that a few odd customers alone never make an alarm; those
have alerts of their own. How large z gets among honest keys is learned from their own interleaved traffic,
window by window, and read in an exponential tail (`detectors.tails`): the bound is expected false alarms a
week. Higher criticism (Donoho and Jin, Annals of Statistics 2004) has the same aim, few and weak effects
among many; a trimmed sum needs no independence between events of one key.

Costs a look at 512 numbers, at most every `LOOK_EVENTS` events and every `LOOK_MS` of event time. Who calls
it: `detectors.engine`, one a model. Deterministic, whatever the batches; keys that lose their slot leave the
window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from detectors.kernelcache import njit
from detectors.keylevel import read_tail
from detectors.reference import ModelAlarmReference
from detectors.tails import fit_tail

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from detectors.base import Array

WINDOW = 512
"""Events looked at together."""
LOOK_EVENTS = 32
"""Events between two looks, at least."""
LOOK_MS = 10_000
"""Event time between two looks, at least: bounds both the work and the number of chances to be wrong."""
KEY_EVENTS = 16
"""Events for which a key counts at most: with so many, 32 keys fill a window."""
TRIMMED_KEYS = 3
SURPRISE_LIMIT = 4.0
"""A key's surprise counts up to this, near the first level: what is beyond is for the key's own alert."""
MODEL_BUDGETS = (0.1, 0.01, 0.001)
"""Expected false alarms per model and week at notice, warning, critical."""
LEAST_KEYS = 20
"""Benign keys without which no alarm is learned."""
LEAST_WINDOWS = 20
CALM = 1.0
"""The alarm may sound again after a look of a kind that honest traffic shows at least so often a week."""
_EXCESS_FLOOR = 0.3
"""Smallest mean excess of the tail that is believed: with 0.1, the other half of one model's customers made
15 alarms in a week, with this two."""
_WEEK_MS = 604_800_000
_DAY_MS = 86_400_000
_EMPTY = -1


class ModelFinding(NamedTuple):
    """Several keys at once are odd, as of one event."""

    row: int
    level: int
    """1 notice, 2 warning, 3 critical."""
    false_alarms: float
    """Expected false alarms so strong, per model and week."""
    slots: NDArray[np.int64]
    """The keys that contribute most, strongest first."""
    share: float
    """Share of the window's events that are theirs."""
    key_count: int
    """Keys in the window."""


class ModelAlarm:
    """The last events of one model, and whether its keys are odd together.

    Parameters
    ----------
    reference : ModelAlarmReference, optional
        How odd honest keys are together; without one nothing is said.
    """

    def __init__(self, reference: ModelAlarmReference | None) -> None:
        self.reference = reference
        self._slots = np.full(WINDOW, _EMPTY, np.int64)
        self._surprise = np.zeros(WINDOW, np.float32)
        self._clock = np.zeros(5, np.int64)  # events, since the last look, first, latest and last look's ms
        self._level = 0

    def process(
        self, slots: NDArray[np.int64], surprise: NDArray[np.float32], time_ms: NDArray[np.int64]
    ) -> list[ModelFinding]:
        """Take in rows (n,) with their keys' surprise, in order; return what was found at the looks."""
        reference = self.reference
        findings: list[ModelFinding] = []
        row = 0
        while reference is not None:
            known = reference.scale, reference.knots, reference.surprise, reference.slope
            own = self._slots, self._surprise, self._clock
            row, self._level, expected = _advance(slots, surprise, time_ms, row, *own, *known, self._level)
            if not row:
                break
            findings.append(self._describe(row - 1, expected, reference.scale))
        return findings

    def _describe(self, row: int, expected: float, scale: Array) -> ModelFinding:
        """Name the keys that add the most, as of the window's latest row."""
        keys, terms, _ = weigh(self._slots, self._surprise, scale)
        strongest = np.argsort(-terms, kind="stable")
        reach = np.cumsum(terms[strongest]) / max(terms[terms > 0].sum(), 1e-9)
        chosen = keys[strongest[: int(np.searchsorted(reach, 0.8)) + 1]]
        share = float(np.isin(self._slots, chosen).mean())
        return ModelFinding(row, self._level, expected, chosen, share, len(keys))

    def forget(self, slots: NDArray[np.int64]) -> None:
        """Drop keys that lost their slots."""
        if len(slots):
            self._slots[np.isin(self._slots, slots)] = _EMPTY

    def dump(self) -> tuple[dict[str, Array], dict[str, int]]:
        """Return the state as arrays and numbers."""
        arrays: dict[str, Array] = {"slots": self._slots, "surprise": self._surprise, "clock": self._clock}
        return arrays, {"level": self._level}

    def restore(self, arrays: Mapping[str, Array], numbers: Mapping[str, int]) -> None:
        """Replace the state by a dump.

        Raises
        ------
        KeyError, ValueError
            If something is missing or of another size.
        """
        for name, own in (("slots", self._slots), ("surprise", self._surprise), ("clock", self._clock)):
            own[:] = arrays[name]
        self._level = int(numbers["level"])


def fit_model_alarm(owner: NDArray[np.int64], surprise: NDArray[np.float32]) -> ModelAlarmReference | None:
    """Learn how odd honest keys are together from their interleaved events, in order of time.

    Parameters
    ----------
    owner : int64 (n,)
        Key of each event.
    surprise : float32 (n,)
        Its key's surprise after it, read as that of a key which set no threshold.

    Returns
    -------
    None where there are too few keys or windows to tell.
    """
    capped = np.minimum(surprise, np.float32(SURPRISE_LIMIT)).astype(float)
    keys, index, counts = np.unique(owner, return_inverse=True, return_counts=True)
    ends = range(WINDOW, len(owner) + 1, LOOK_EVENTS)
    looks = WINDOW // LOOK_EVENTS
    if len(keys) < LEAST_KEYS or len(ends) < LEAST_WINDOWS * looks:
        return None
    mean = float((np.bincount(index, capped) / counts).mean())
    variance = np.bincount(index, np.square(capped - mean)) / counts
    scale = np.array([mean, max(float(variance.mean()) ** 0.5, 1e-3)])
    windows = (slice(end - WINDOW, end) for end in ends)
    z = np.array([trimmed_z(*weigh(owner[window], surprise[window], scale)[1:]) for window in windows])
    largest = z[: len(z) // looks * looks].reshape(-1, looks).max(axis=1).astype(np.float32)
    knots, height, slope = fit_tail(largest, censored=0, empirical_top=False, excess_floor=_EXCESS_FLOOR)
    return ModelAlarmReference(scale=scale, knots=knots, surprise=height, slope=np.array([slope], np.float32))


@njit(cache=True, nogil=True)
def weigh(slots: Array, surprise: Array, scale: Array) -> tuple[Array, Array, Array]:
    """Return the keys of a window, what each adds to z before the division by the weights' norm, and weights.

    Parameters
    ----------
    slots : int64 (n,)
        Key of each event, negative for none.
    surprise : float32 (n,)
    scale : float64 (2,)
        Mean and standard deviation of an honest key's surprise.

    Returns
    -------
    keys : int64 (k,)
        In the order in which they first stand in the window.
    terms, weight : float64 (k,)
    """
    mask = 1
    while mask < 2 * len(slots):
        mask *= 2
    mask -= 1
    table = np.full(mask + 1, -1, np.int64)
    keys, counts, total = np.empty_like(slots), np.zeros(len(slots)), np.zeros(len(slots))
    found = 0
    for i in range(len(slots)):
        if slots[i] < 0:
            continue
        at = (slots[i] ^ (slots[i] >> 9)) & mask
        while table[at] >= 0 and keys[table[at]] != slots[i]:
            at = (at + 1) & mask
        if table[at] < 0:
            table[at], keys[found] = found, slots[i]
            found += 1
        counts[table[at]] += 1
        total[table[at]] += min(np.float64(surprise[i]), SURPRISE_LIMIT)
    weight = np.minimum(counts[:found], np.float64(KEY_EVENTS))
    return keys[:found], weight * (total[:found] / counts[:found] - scale[0]) / scale[1], weight


@njit(cache=True, nogil=True)
def trimmed_z(terms: Array, weight: Array) -> Any:
    """Return z without the `TRIMMED_KEYS` largest terms; minus infinity where too few keys are left."""
    if len(terms) <= TRIMMED_KEYS:
        return -np.inf
    kept = terms.copy()
    for _ in range(TRIMMED_KEYS):
        kept[np.argmax(kept)] = -np.inf
    total = norm = 0.0
    for i in range(len(kept)):
        norm += weight[i] * weight[i]
        if kept[i] > -np.inf:
            total += kept[i]
    return total / np.sqrt(norm)


@njit(cache=True, nogil=True)
def _advance(
    slots: Array, surprise: Array, time_ms: Array, start: int,
    ring: Array, ring_surprise: Array, clock: Array,
    scale: Array, knots: Array, tail_surprise: Array, slope: Array, level: int,
) -> tuple[int, int, float]:  # fmt: skip
    """Take in rows from `start` up to one at which the level rises, looking as often as is due.

    Return the row behind it, or 0 at the end; the level now; expected false alarms so strong, a week.
    """
    z, height = np.empty(1, np.float32), np.empty(1, np.float32)
    for i in range(start, len(slots)):
        place = clock[0] % len(ring)
        ring[place], ring_surprise[place] = slots[i], surprise[i]
        if clock[0] == 0:
            clock[2] = time_ms[i]
        clock[0] += 1
        clock[1] += 1
        clock[3] = max(clock[3], time_ms[i])
        if clock[0] < len(ring) or clock[1] < LOOK_EVENTS or clock[3] < clock[4] + LOOK_MS:
            continue
        clock[1], clock[4] = 0, clock[3]
        _, terms, weight = weigh(ring, ring_surprise, scale)
        z[0] = trimmed_z(terms, weight)
        read_tail(z, knots, tail_surprise, slope[0], height)
        expected = _windows_a_week(clock) * np.exp(-np.float64(height[0]))
        if expected >= CALM:
            level = 0
        reached = 0
        for budget in MODEL_BUDGETS:
            reached += expected <= budget
        if reached > level:
            return i + 1, reached, expected
    return 0, level, 0.0


@njit(cache=True, nogil=True)
def _windows_a_week(clock: Array) -> Any:
    """Return how many windows that share no event a week holds, at the pace so far."""
    span_ms = max(clock[3] - clock[2], _DAY_MS)
    return min(max(clock[0] / WINDOW * _WEEK_MS / span_ms, 1.0), _WEEK_MS / LOOK_MS)
