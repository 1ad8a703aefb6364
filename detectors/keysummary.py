"""What a person is told of one key, and what it would take for it to be alerted."""

from __future__ import annotations

from math import exp, log
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from detectors.alert import LEVELS
from detectors.keylevel import MINIMUM_MASS
from detectors.statistics import GROUP_OF, HORIZONS, STATISTICS
from detectors.watch import EXTRAPOLATION_LIMIT, THRESHOLDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from detectors.keystate import KeyState
    from detectors.modelwatch import ModelWatch
    from detectors.reference import KeyReference

NEAREST = 5
"""Statistics that a summary tells of."""


class Nearest(msgspec.Struct, frozen=True, kw_only=True):
    """How far one statistic of a key is from a notice, if the others stay as they are."""

    name: str
    sentence: str
    observed: float
    expected: float
    """Mean over honest keys."""
    needed: float
    """The mean that would be a notice by itself, over as many queries as the key's mean rests on."""
    share: float
    """Part of the way from expected to needed; 1 or more is a notice."""


class KeySummary(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one key now, for `modelwarden key show`, `explain` and `why-not`."""

    key: str
    model: str
    query_count: int
    first_time_ms: int
    last_time_ms: int
    level: str | None
    key_p_value: float
    held_queries: float
    """Of the queries that a copy of the model needs (`detectors.budget`)."""
    features: dict[str, float]
    nearest: tuple[Nearest, ...] = ()
    """What comes nearest to a notice, nearest first; none while the model is still learned."""


def summarise(keys: KeyState, slot: int, models: Sequence[ModelWatch]) -> KeySummary:
    """Say what is known of a hot key; `models` by number."""
    slabs, level = keys.slabs, int(keys.slabs["level"][slot])
    model, means = models[keys.model_of(slot)], slabs["mean"][slot]
    return KeySummary(
        key=keys.key_of(slot),
        model=model.name,
        query_count=int(slabs["count"][slot]),
        first_time_ms=int(slabs["first_ms"][slot]),
        last_time_ms=int(keys.table.last_ms[slot]),
        level=LEVELS[level - 1] if level else None,
        key_p_value=exp(-float(slabs["surprise_peak"][slot])),
        held_queries=float(slabs["held"][slot]),
        features={s.name: float(mean) for s, mean in zip(STATISTICS, means, strict=True)},
        nearest=model.nearest(means, slabs["mass"][slot]),
    )


def notice_z(key: KeyReference) -> NDArray[np.float64]:
    """Return the z-value at which each statistic alone is a notice: float64 (S,); infinite if none is.

    Depends on the reference alone, so it is worked out once for many keys.
    """
    notice, count = float(THRESHOLDS[0]), len(STATISTICS)
    if notice > log(EXTRAPOLATION_LIMIT * float(key.key_count[0])):
        return np.full(count, np.inf)
    least = [_reach(key, count + group, notice) for group in range(len(key.tail_slope) - count)]
    return np.array([_reach(key, s, least[GROUP_OF[s]]) for s in range(count)])


def _reach(key: KeyReference, row: int, surprise: float) -> float:
    """Invert a lifetime tail (`detectors.keylevel.tail`)."""
    knots, table, slope = key.tail_knots[row], key.tail_surprise[row], float(key.tail_slope[row])
    if surprise > table[-1]:
        return float(knots[-1] + (surprise - table[-1]) / slope)
    return float(np.interp(surprise, table, knots))


def nearest(
    key: KeyReference, reach: NDArray[np.float64], mean: NDArray[np.float32], mass: NDArray[np.float32]
) -> tuple[Nearest, ...]:
    """Compare a key's running means (S,) with what a notice needs (`notice_z`); nearest first.

    Statistics that have seen too few queries yet say nothing.
    """
    ripe = mass >= np.minimum(HORIZONS, MINIMUM_MASS)
    spread = np.sqrt(key.between_variance + key.within_variance / np.maximum(mass, 1))
    room = np.maximum(reach * spread, 1e-9)
    share = np.where(ripe, (mean - key.mean) / room, -np.inf)
    chosen = [int(s) for s in np.argsort(-share, kind="stable")[:NEAREST] if np.isfinite(share[s])]
    return tuple(
        Nearest(
            name=STATISTICS[s].name,
            sentence=STATISTICS[s].value.sentence,
            observed=float(mean[s]),
            expected=float(key.mean[s]),
            needed=float(key.mean[s] + room[s]),
            share=float(share[s]),
        )
        for s in chosen
        if np.isfinite(reach[s])
    )
