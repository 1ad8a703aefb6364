"""What a person is told of one key."""

from __future__ import annotations

from math import exp
from typing import TYPE_CHECKING

import msgspec

from detectors.alert import LEVELS
from detectors.statistics import STATISTICS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from detectors.keystate import KeyState


class KeySummary(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one key now, for `modelwarden key show` and `key explain`."""

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


def summarise(keys: KeyState, slot: int, models: Sequence[str]) -> KeySummary:
    """Say what is known of a hot key; `models` are names by number."""
    slabs, level = keys.slabs, int(keys.slabs["level"][slot])
    return KeySummary(
        key=keys.key_of(slot),
        model=models[keys.model_of(slot)],
        query_count=int(slabs["count"][slot]),
        first_time_ms=int(slabs["first_ms"][slot]),
        last_time_ms=int(keys.table.last_ms[slot]),
        level=LEVELS[level - 1] if level else None,
        key_p_value=exp(-float(slabs["surprise_peak"][slot])),
        held_queries=float(slabs["held"][slot]),
        features={s.name: float(mean) for s, mean in zip(STATISTICS, slabs["mean"][slot], strict=True)},
    )
