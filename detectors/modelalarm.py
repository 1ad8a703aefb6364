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

Costs a look at 512 numbers, at most every `LOOK_MS` of event time. Who calls it: `detectors.engine`, one a
model. Deterministic, whatever the batches; keys that lose their slot leave the window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from detectors.kernelcache import njit
from detectors.keylevel import tail
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
_EXCESS_FLOOR = 0.1
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
        start = 0
        while reference is not None and start < len(slots):
            row = _advance(slots, surprise, time_ms, start, self._slots, self._surprise, self._clock)
            if row < 0:
                break
            finding = self._look(reference, row)
            findings += [] if finding is None else [finding]
            start = row + 1
        return findings

    def _look(self, reference: ModelAlarmReference, row: int) -> ModelFinding | None:
        keys, terms, weight = _terms(self._slots, self._surprise, *reference.scale)
        z = _trimmed(terms, weight)
        expected = self._windows_a_week() * np.exp(
            -tail(z, reference.knots, reference.surprise, float(reference.slope[0]))
        )
        if expected >= CALM:
            self._level = 0
        level = sum(float(expected) <= budget for budget in MODEL_BUDGETS)
        if level <= self._level:
            return None
        self._level = int(level)
        strongest = np.argsort(-terms, kind="stable")
        reach = np.cumsum(terms[strongest]) / max(terms[terms > 0].sum(), 1e-9)
        chosen = keys[strongest[: int(np.searchsorted(reach, 0.8)) + 1]]
        share = float(np.isin(self._slots, chosen).mean())
        return ModelFinding(row, level, float(expected), chosen, share, len(keys))

    def _windows_a_week(self) -> float:
        """Return how many windows that share no event a week holds, at the pace so far."""
        events, _, first_ms, latest_ms, _ = self._clock.tolist()
        pace = events / WINDOW * _WEEK_MS / max(latest_ms - first_ms, _DAY_MS)
        return min(max(pace, 1.0), _WEEK_MS / LOOK_MS)

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
    z = np.array(
        [_trimmed(*_terms(owner[end - WINDOW : end], capped[end - WINDOW : end], *scale)[1:]) for end in ends]
    )
    largest = z[: len(z) // looks * looks].reshape(-1, looks).max(axis=1).astype(np.float32)
    knots, height, slope = fit_tail(largest, censored=0, empirical_top=False, excess_floor=_EXCESS_FLOOR)
    return ModelAlarmReference(scale=scale, knots=knots, surprise=height, slope=np.array([slope], np.float32))


def _terms(
    slots: Array, surprise: Array, mean: float, deviation: float
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the window's keys, what each adds to z before the division by the weights' norm, and weights."""
    keys, index, counts = np.unique(slots, return_inverse=True, return_counts=True)
    total = np.bincount(index, np.minimum(surprise, SURPRISE_LIMIT))
    weight = np.minimum(counts, KEY_EVENTS).astype(float)
    terms = weight * (total / counts - mean) / deviation
    known = keys != _EMPTY
    return keys[known], terms[known], weight[known]


def _trimmed(terms: NDArray[np.float64], weight: NDArray[np.float64]) -> float:
    """Return z; minus infinity where so few keys are left that it says nothing."""
    if len(terms) <= TRIMMED_KEYS:
        return -np.inf
    kept = np.sort(terms)[: len(terms) - TRIMMED_KEYS]
    return float(kept.sum() / np.sqrt(np.square(weight).sum()))


@njit(cache=True, nogil=True)
def _advance(
    slots: Array, surprise: Array, time_ms: Array, start: int, ring: Array, ring_surprise: Array, clock: Array
) -> int:
    """Take in rows from `start` up to the one after which to look; return it, or -1 at the end."""
    for i in range(start, len(slots)):
        place = clock[0] % len(ring)
        ring[place], ring_surprise[place] = slots[i], surprise[i]
        if clock[0] == 0:
            clock[2] = time_ms[i]
        clock[0] += 1
        clock[1] += 1
        clock[3] = max(clock[3], time_ms[i])
        if clock[0] >= len(ring) and clock[1] >= LOOK_EVENTS and clock[3] >= clock[4] + LOOK_MS:
            clock[1], clock[4] = 0, clock[3]
            return i
    return -1
