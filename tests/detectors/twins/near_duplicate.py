"""Plain-Python twin of `detectors.signals.near_duplicate`: the ring is a list, the step a running mean."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

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
        is_central = math.dist(sketch, centre) < 0.5 * float(reference.pair_distance[0])
        out.append(compare(query, known, is_central=is_central))
        if known.queries:
            horizon = min(len(known.queries), 64)
            known.step += (apart(query, known.queries[-1]) - known.step) / horizon
        known.queries.append(query)
    return out


def hash_word(sketch: list[float]) -> int:
    """Return the top four bits of a multiple of the sum of the sketch's words."""
    words = [int.from_bytes(struct.pack("<f", value + 0.0), "little") for value in sketch]
    return (sum(words) * 0x9E3779B1 & 0xFFFFFFFF) >> 28


def compare(query: Query, past: Past, *, is_central: bool) -> list[float]:
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
    ring = in_places(recent, len(past.queries))
    midpoint = far > 0.2 and is_midpoint(query, nearest, recent)
    on_line = is_central and far > 0.1 and (is_between(query, nearest, ring) or is_middle(query, ring))
    if len(past.queries) > 1:
        gain = math.log10(0.8 / 0.5 if is_probe(query, *past.queries[-2:]) else 0.2 / 0.5)
        past.evidence = min(max(past.evidence + gain, 0), 30)
    return [float(near_copy), float(label_flip), echo, float(midpoint or on_line), past.evidence, far]


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


def in_places(recent: list[Query], count: int) -> list[Query]:
    """Return the last queries in the order of their places in the ring."""
    first = count % 256 if len(recent) == 256 else 0
    return recent[-first:] + recent[:-first] if first else recent


def is_between(query: Query, nearest: Query, history: list[Query]) -> bool:
    """Tell whether another of a different class lies on the other side, within an angle."""
    toward = [a - place for place, a in zip(query.code, nearest.code, strict=True)]
    for old in history:
        away = [a - place for place, a in zip(query.code, old.code, strict=True)]
        product = sum(a * b for a, b in zip(away, toward, strict=True))
        straight = 0.9 * sum(a * a for a in toward) * sum(a * a for a in away)
        if product < 0 and product**2 > straight and old.label != nearest.label:
            return True
    return False


def is_middle(query: Query, ring: list[Query]) -> bool:
    """Tell whether two of other classes have their middle here, of those whose cells say so."""
    table = {cell(end.code) >> 6: end for end in ring}
    for end in ring:
        opposite = cell([2 * place - a for place, a in zip(query.code, end.code, strict=True)])
        other = table.get(opposite >> 6)
        if other is not None and cell(other.code) == opposite and other.label != end.label:
            sums = [a + b for a, b in zip(end.code, other.code, strict=True)]
            error = sum((a - 2 * place) ** 2 for a, place in zip(sums, query.code, strict=True))
            if error < 25 and math.dist(end.code, other.code) ** 2 >= (0.4 * 24) ** 2 * 12:
                return True
    return False


def cell(code: Iterable[int]) -> int:
    """Return a hash of the cell, 8 quanta wide in the first coordinates, that a code lies in."""
    weights = (0x9E37, 0x79B1, 0x85EB, 0xCA77, 0xC2B3)
    return sum((place >> 3) * weight for place, weight in zip(code, weights, strict=False)) & 0xFFFF


def apart(a: Query, b: Query) -> float:
    """Return the distance between two codes in median pair distances.

    In single precision, as the signal has it: squared distances are whole numbers and often lie on a limit.
    """
    return float(np.float32(math.dist(a.code, b.code)) * np.float32(1 / (24 * math.sqrt(12))))
