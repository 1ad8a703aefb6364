"""Plain-Python twin of `detectors.signals.coverage`."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detectors.batch import EventBatch
    from detectors.reference import EventReference


class Seen:
    """What one key has seen."""

    def __init__(self) -> None:
        self.cells: set[tuple[bool, ...]] = set()
        self.appearances: dict[int, int] = {}
        self.labels = [0] * 8


def score(batch: EventBatch, keys: list[int], reference: EventReference) -> list[list[float]]:
    """Count cells, repeats of the distinct queries with the eight smallest hashes, and classes."""
    deviation = float(reference.pair_distance[0]) / math.sqrt(2 * reference.input_centres.shape[1])
    cuts = [float(centre) + 0.5 * deviation for centre in reference.ring_centre[:8]]
    seen: dict[int, Seen] = {}
    out = []
    for event, key in enumerate(keys):
        state = seen.setdefault(key, Seen())
        sketch = [float(x) + 0.0 for x in batch.input_sketch[event]]
        if not all(map(math.isfinite, sketch)):
            out.append([math.nan] * 3)
            continue
        state.cells.add(tuple(x > cut for x, cut in zip(sketch, cuts, strict=False)))
        value = hash_of(sketch)
        state.appearances[value] = state.appearances.get(value, 0) + 1
        if batch.predicted_class[event] >= 0:
            tally(state.labels, int(batch.predicted_class[event]) % 8)
        counts = [min(state.appearances[smallest], 255) for smallest in sorted(state.appearances)[:8]]
        out.append([len(state.cells), sum(counts) / len(counts), entropy(state.labels)])
    return out


def hash_of(sketch: list[float]) -> int:
    words: tuple[int, ...] = struct.unpack("<32I", struct.pack("<32f", *sketch))
    total = sum(word * factor(place) for place, word in enumerate(words, 1)) % 2**64
    mixed = (total ^ total >> 32) & 0xFFFFFFFF
    mixed ^= mixed >> 16
    mixed = mixed * 0x85EBCA6B & 0xFFFFFFFF
    mixed ^= mixed >> 13
    mixed = mixed * 0xC2B2AE35 & 0xFFFFFFFF
    return max(mixed ^ mixed >> 16, 1)


def factor(place: int) -> int:
    """Return an odd word of 32 bits for each place, SplitMix64."""
    word = place * 0x9E3779B97F4A7C15 % 2**64
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    word = (word ^ word >> 27) * 0x94D049BB133111EB % 2**64
    return word >> 32 | 1


def tally(labels: list[int], bucket: int) -> None:
    if labels[bucket] == 65535:
        labels[:] = [count // 2 for count in labels]
    labels[bucket] += 1


def entropy(labels: list[int]) -> float:
    total = sum(labels)
    return -sum(c / total * math.log(c / total) for c in labels if c) if total else math.nan
