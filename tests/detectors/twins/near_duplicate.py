"""Plain-Python twin of `detectors.signals.near_duplicate`: the ring is a list, the step a running mean."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from detectors.batch import EventBatch
    from detectors.reference import EventReference


class Query(NamedTuple):
    """A remembered query."""

    code: tuple[int, ...]
    label: int
    word: int
    """Four bits of a hash of the whole sketch."""


class Past:
    """What is kept of a key; `places` are those of the last queries' nearest ones, modulo 256."""

    def __init__(self) -> None:
        self.queries: list[Query] = []
        self.step = 0.0
        self.places = [0, 0, 0]
        self.evidence = 0.0


def score(batch: EventBatch, keys: list[int], reference: EventReference) -> list[list[float]]:
    """Compare each query with the last 256 of its key."""
    quantum = float(reference.pair_distance[0]) / math.sqrt(32) / 24
    centre = reference.ring_centre.tolist()
    past: dict[int, Past] = {}
    out = []
    for key, sketch, label in zip(
        keys, batch.input_sketch.tolist(), batch.predicted_class.tolist(), strict=True
    ):
        if not all(math.isfinite(value) for value in sketch[:12]):
            out.append([math.nan] * 6)
            continue
        places = [
            round((value - middle) / quantum) for value, middle in zip(sketch[:12], centre, strict=False)
        ]
        code = tuple(max(-127, min(127, place)) for place in places)
        query = Query(code, label & 15, hash_word(sketch))
        known = past.setdefault(key, Past())
        out.append(compare(query, known))
        if known.queries:
            horizon = min(len(known.queries), 64)
            known.step += (apart(query, known.queries[-1]) - known.step) / horizon
        known.queries.append(query)
    return out


def hash_word(sketch: list[float]) -> int:
    """Return the top four bits of a multiple of the sum of the sketch's words."""
    words = [int.from_bytes(struct.pack("<f", value + 0.0), "little") for value in sketch]
    return (sum(words) * 0x9E3779B1 & 0xFFFFFFFF) >> 28


def compare(query: Query, past: Past) -> list[float]:
    """Score a query against those remembered, the latest of equally near ones first."""
    if not past.queries:
        return [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    recent = past.queries[-256:]
    lag, nearest = min(enumerate(reversed(recent), 1), key=lambda entry: (apart(query, entry[1]), entry[0]))
    far = apart(query, nearest)
    if far == 0 and nearest.word == query.word:
        return [*[math.nan] * 5, 0.0]
    near_copy = lag > 8 and far < 0.3 * min(past.step, 1.2)
    label_flip = far < 0.5 and nearest.label != query.label
    place = len(past.queries) - lag
    echo = follows(place, past.places, len(past.queries)) if lag > 8 else math.nan
    past.places = [place % 256, *past.places[:2]]
    midpoint = far > 0.2 and is_midpoint(query, nearest, recent)
    if len(past.queries) > 1:
        gain = math.log10(0.8 / 0.5 if is_probe(query, *past.queries[-2:]) else 0.2 / 0.5)
        past.evidence = min(max(past.evidence + gain, 0), 30)
    return [float(near_copy), float(label_flip), echo, float(midpoint), past.evidence, far]


def follows(place: int, places: list[int], count: int) -> float:
    """Return -log10 p of how shortly `place` comes after the nearest of `places` before it."""
    gaps = [(place - last) % 256 or 256 for last in places]
    reach = max((count - other - 1) % 256 + 1 for other in [place, *places])
    return -math.log10(min(1.0, 3 * min(gaps) / reach))


def is_probe(query: Query, older: Query, last: Query) -> bool:
    """Tell whether two steps are small and equal, and turn by 120 degrees, or are too small to tell."""
    new = [a - b for a, b in zip(query.code, last.code, strict=True)]
    old = [a - b for a, b in zip(last.code, older.code, strict=True)]
    squares = sorted(sum(a * a for a in step) for step in (new, old))
    if squares[1] > (0.5 * 24) ** 2 * 12:
        return False
    if squares[1] <= 6:
        return True
    cosine = sum(a * b for a, b in zip(new, old, strict=True)) / math.sqrt(max(squares[0] * squares[1], 1))
    return squares[1] < 2.7 * squares[0] and -0.9 < cosine < -0.1


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
