"""Plain-Python twin of `detectors.signals.rate`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detectors.batch import EventBatch
    from detectors.reference import EventReference


def score(batch: EventBatch, keys: list[int], reference: EventReference) -> list[list[float]]:  # noqa: ARG001 - twins share one form
    """Count each key's queries, forgotten with a time constant of one hour."""
    state: dict[int, tuple[float, int]] = {}
    out = []
    for key, time_ms in zip(keys, batch.time_ms.tolist(), strict=True):
        count, last_ms = state.get(key, (0.0, 0))
        elapsed_ms = max(time_ms - last_ms, 0) if count else 0
        count = count * math.exp(-elapsed_ms / 3_600_000) + 1
        state[key] = (count, max(time_ms, last_ms))
        out.append([math.log10(count)])
    return out
