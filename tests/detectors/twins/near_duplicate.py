"""Plain-Python twin of `detectors.signals.near_duplicate`: the ring is a list, the step a running mean."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from detectors.batch import EventBatch
    from detectors.reference import EventReference


class Query(NamedTuple):
    """A remembered query."""

    code: tuple[int, ...]
    label: int


def score(batch: EventBatch, keys: list[int], reference: EventReference) -> list[list[float]]:
    """Compare each query with the last 256 of its key."""
    quantum = float(reference.pair_distance[0]) / math.sqrt(32) / 24
    centre = reference.ring_centre.tolist()
    past: dict[int, list[Query]] = {}
    steps: dict[int, float] = {}
    lags: dict[int, int] = {}
    out = []
    for key, sketch, label in zip(
        keys, batch.input_sketch.tolist(), batch.predicted_class.tolist(), strict=True
    ):
        if not all(math.isfinite(value) for value in sketch[:12]):
            out.append([math.nan] * 5)
            continue
        places = [
            round((value - middle) / quantum) for value, middle in zip(sketch[:12], centre, strict=False)
        ]
        query = Query(tuple(max(-127, min(127, place)) for place in places), label & 0xFF)
        history = past.setdefault(key, [])
        scores, lags[key] = compare(query, history[-256:], steps.get(key, 0.0), lags.get(key, 0))
        out.append(scores)
        if history:
            horizon = min(len(history), 64)
            steps[key] = steps.get(key, 0.0) + (apart(query, history[-1]) - steps.get(key, 0.0)) / horizon
        history.append(query)
    return out


def compare(query: Query, history: list[Query], step: float, last_lag: int) -> tuple[list[float], int]:
    """Score a query against those remembered, the latest of equally near ones first; return the lag too."""
    if not history:
        return [0.0, 0.0, 0.0, 0.0, 1.0], last_lag
    lag, nearest = min(enumerate(reversed(history), 1), key=lambda entry: (apart(query, entry[1]), entry[0]))
    far = apart(query, nearest)
    if far == 0:
        return [*[math.nan] * 4, 0.0], last_lag
    near_copy = lag > 8 and far < 0.3 * min(step, 1.2)
    label_flip = far < 0.5 and nearest.label != query.label
    echo = lag > 8 and lag == last_lag
    midpoint = far > 0.2 and is_midpoint(query, nearest, history)
    return [float(near_copy), float(label_flip), float(echo), float(midpoint), far], lag


def is_midpoint(query: Query, end: Query, history: list[Query]) -> bool:
    """Tell whether the point opposite to `end` is remembered, give or take 0.3 of the distance to it."""
    opposite = [2 * place - other for place, other in zip(query.code, end.code, strict=True)]
    near = min(sum((a - b) ** 2 for a, b in zip(opposite, old.code, strict=True)) for old in history)
    return near < 0.3**2 * sum((a - b) ** 2 for a, b in zip(query.code, end.code, strict=True))


def apart(a: Query, b: Query) -> float:
    """Return the distance between two codes in median pair distances.

    In single precision, as the signal has it: squared distances are whole numbers and often lie on a limit.
    """
    return float(np.float32(math.dist(a.code, b.code)) * np.float32(1 / (24 * math.sqrt(12))))
