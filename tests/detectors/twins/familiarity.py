"""Plain-Python twin of `detectors.signals.familiarity`: the map is a set of places."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from detectors.base import Array
    from detectors.batch import EventBatch
    from detectors.reference import EventReference


class Past(NamedTuple):
    """What is kept of a key."""

    places: frozenset[int] = frozenset()
    new: float = 0.0
    familiar: float = 0.0


def score(batch: EventBatch, keys: list[int], reference: EventReference) -> list[list[float]]:
    """Count the key's new inputs, and those of them that lie near a remembered one of their class."""
    if not reference.familiar_points.size:
        return [[math.nan] for _ in keys]
    planes = np.random.default_rng(3).standard_normal((12, 32)).astype(np.float32)
    rows = {int(label): row for row, label in enumerate(reference.classes)}
    pasts: dict[int, Past] = {}
    out = []
    for event, key in enumerate(keys):
        sketch = batch.input_sketch[event]
        if not np.isfinite(sketch).all():
            out.append([math.nan])
            continue
        place = place_of(sketch - reference.input_centres[-1], planes)
        past = pasts.get(key, Past())
        if place not in past.places:
            row = rows.get(int(batch.predicted_class[event]), len(rows))
            first, last = reference.familiar_start[row : row + 2]
            places = past.places | {place}
            weight = 1 if past.new < 128 else 0 if len(places) % 4 else 4
            near = is_near(sketch, reference.familiar_points[:, first:last], reference.familiar_distance)
            past = Past(places, past.new + weight, past.familiar + weight * near)
            if len(past.places) >= 384:
                past = Past(frozenset(), past.new / 2, past.familiar / 2)
        pasts[key] = past
        out.append([-math.log((past.familiar + 16 * 0.4) / (past.new + 16))])
    return out


def place_of(apart: Array, planes: Array) -> int:
    """Hash the signs of the projections to one of 512 places."""
    signs = "".join("1" if float(plane.astype(float) @ apart.astype(float)) > 0 else "0" for plane in planes)
    return (((int(signs, 2) + 1) * 0x9E3779B97F4A7C15) % 2**64 >> 40) % 512


def is_near(sketch: Array, points: Array, distance: Array) -> bool:
    """Tell whether a point lies within the distance."""
    return any(math.dist(sketch.tolist(), point) <= float(distance[0]) for point in points.T.tolist())
