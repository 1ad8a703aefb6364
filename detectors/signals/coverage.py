"""How much of the input space a key has visited, how often it repeats itself, how balanced its answers are.

Coverage: the sketch is a Gaussian projection, so the sides of eight planes that its first coordinates lie on
are a locality-sensitive hash (Charikar, STOC 2002); the key's visited cells are a bitmap, as CAP and B4B
(NeurIPS 2023) count them, and their union over keys is a bitwise or (Kesarwani et al., ACSAC 2018). The
planes lie half a standard deviation off the centre, so that cells have unequal mass and some stay rare for
long.

Repeats: the queries with the eight smallest hashes are a uniform sample of the distinct ones (k minimum
values, Bar-Yossef et al., RANDOM 2002), and each was counted from its first appearance on. Their mean count
is what one distinct query was sent; without repeats it is exactly 1.

Known evasions: whoever knows the sketch's matrix can find queries with small hashes and repeat those, at a
query each; or stay in a part of the space, and get a copy of that part only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from detectors.kernelcache import njit
from detectors.prefetch import prefetch, slot_ahead
from detectors.words import hash_words, is_finite

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detectors.alert import Family
    from detectors.base import Array, Events, Fields, Slabs
    from detectors.reference import EventReference

PLANES = 8
CELLS = 1 << PLANES
OFFSET_RATIO = 0.5
"""Distance of a plane from the centre, in standard deviations of a coordinate."""
SAMPLE_SIZE = 8
LABEL_BUCKETS = 8
"""Classes are counted modulo this."""
_SAMPLE_FULL = 255
_LABEL_FULL = 0xFFFF
_LOGARITHMS = np.log(np.maximum(np.arange(4096), 1))
"""Of counts that fit: most do, and a logarithm costs twenty times a look."""


class Coverage:
    """What a key has seen of the model.

    Scores
    ------
    cells_visited : cells of the input space visited so far, of 256.
    repeats : how often a distinct query was sent so far, on average.
    label_nats : entropy of the answers' classes so far, in nats; NaN without any class.
    """

    name: ClassVar[str] = "coverage"
    family: ClassVar[Family] = "budget"
    counts_all: ClassVar[bool] = True
    scores: ClassVar[tuple[str, ...]] = ("cells_visited", "repeats", "label_nats")
    fields: ClassVar[Fields] = {
        "cells": ("u1", (CELLS // 8,)),
        "cell_count": ("u2", ()),
        "sample_hash": ("u4", (SAMPLE_SIZE,)),
        "sample_count": ("u1", (SAMPLE_SIZE,)),
        "label_count": ("u2", (LABEL_BUCKETS,)),
    }

    def __init__(self, reference: EventReference) -> None:
        """Place the planes around this reference's ring centre, which never changes."""
        self._planes = planes(reference)

    @property
    def kernel(self) -> Any:
        """Score rows (`score_coverage`)."""
        return score_coverage

    def arguments(self, events: Events, slots: NDArray[np.int64], slabs: Slabs) -> tuple[Any, ...]:
        """Return the sketches, where the space is cut, and the slabs of the keys."""
        state = [slabs[name] for name in self.fields]
        columns = events.rows, events.sketch, events.words, events.predicted
        return *columns, slots, self._planes, _LOGARITHMS, *state


def label_nats(counts: NDArray[np.uint16]) -> NDArray[np.float64]:
    """Return the entropy of each key's classes from its `label_count` (K, 8): float64 (K,); 0 without any."""
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    nats: NDArray[np.float64] = -(share * np.log(np.where(share > 0, share, 1))).sum(axis=1)
    return nats


def planes(reference: EventReference) -> NDArray[np.float32]:
    """Return where each of the first coordinates is cut: float32 (PLANES,)."""
    size = reference.input_centres.shape[1]
    deviation = reference.pair_distance[0] / np.sqrt(np.float32(2 * size))
    cuts: NDArray[np.float32] = reference.ring_centre[:PLANES] + np.float32(OFFSET_RATIO) * deviation
    return cuts.astype(np.float32)


def cell_numbers(sketch: NDArray[np.float32], cuts: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the cell of each sketch (n, 32), int64 (n,)."""
    number: NDArray[np.int64] = ((sketch[:, :PLANES] > cuts) << np.arange(PLANES)).sum(axis=1)
    return number


@njit(cache=True, nogil=True)
def score_coverage(
    out: Array, rows: Array, sketch: Array, words: Array, predicted: Array, slots: Array,
    cuts: Array, logarithms: Array,
    cells: Array, cell_count: Array, sample_hash: Array, sample_count: Array, label_count: Array,
) -> None:  # fmt: skip
    """Score each row, itself included; NaN where the sketch is absent."""
    for i in range(len(slots)):
        prefetch(cells, slot_ahead(slots, i))
        prefetch(sample_hash, slot_ahead(slots, i))
        prefetch(label_count, slot_ahead(slots, i))
        row, slot = rows[i], slots[i]
        if not is_finite(words[row]):
            continue
        cell = 0
        for j in range(PLANES):
            cell |= int(sketch[row, j] > cuts[j]) << j
        mask = np.uint8(1 << (cell & 7))
        if not cells[slot, cell >> 3] & mask:
            cells[slot, cell >> 3] |= mask
            cell_count[slot] += 1
        _sample(max(hash_words(words[row]), np.uint32(1)), sample_hash[slot], sample_count[slot])
        if predicted[row] >= 0:
            _tally(predicted[row] % LABEL_BUCKETS, label_count[slot])
        out[i, 0] = cell_count[slot]
        out[i, 1] = _mean_count(sample_hash[slot], sample_count[slot])
        out[i, 2] = _entropy(label_count[slot], logarithms)


@njit(cache=True, nogil=True, inline="always")
def _sample(value: int, hashes: Array, counts: Array) -> None:
    """Count the query if it is sampled; take it in if its hash is among the smallest."""
    last, place = 0, -1
    for j in range(SAMPLE_SIZE):
        # 0 is an empty place: as large as can be, less one.
        if np.uint32(hashes[j] - np.uint32(1)) > np.uint32(hashes[last] - np.uint32(1)):
            last = j
        if hashes[j] == value:
            place = j
    if place >= 0:
        counts[place] = min(counts[place] + 1, _SAMPLE_FULL)
    elif hashes[last] == 0 or value < hashes[last]:
        hashes[last], counts[last] = value, 1


@njit(cache=True, nogil=True, inline="always")
def _mean_count(hashes: Array, counts: Array) -> float:
    total, filled = np.uint32(0), np.uint32(0)
    for j in range(SAMPLE_SIZE):
        filled += np.uint32(hashes[j] > 0)
        total += np.uint32(counts[j])
    return float(total) / float(filled)


@njit(cache=True, nogil=True)
def _tally(bucket: int, counts: Array) -> None:
    """Count a class; when its count is full, all are halved."""
    if counts[bucket] == _LABEL_FULL:
        for j in range(LABEL_BUCKETS):
            counts[j] >>= 1
    counts[bucket] += 1


@njit(cache=True, nogil=True, inline="always")
def _entropy(counts: Array, logarithms: Array) -> float:
    total, weighted = np.int64(0), 0.0
    for j in range(LABEL_BUCKETS):
        total += np.int64(counts[j])
    if total == 0:
        return np.nan
    if total < len(logarithms):
        for j in range(LABEL_BUCKETS):
            weighted += counts[j] * logarithms[counts[j]]
        return float(logarithms[total] - weighted / total)
    for j in range(LABEL_BUCKETS):
        if counts[j] > 1:
            weighted += counts[j] * _logarithm(counts[j], logarithms)
    return float(np.log(total) - weighted / total)


@njit(cache=True, nogil=True, inline="always")
def _logarithm(count: int, logarithms: Array) -> float:
    return float(logarithms[count]) if count < len(logarithms) else float(np.log(count))
