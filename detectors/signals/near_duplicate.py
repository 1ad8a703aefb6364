"""Whether a query is a near copy of one of the key's earlier queries, and answered otherwise.

The idea of stateful defences (Chen, Carlini, Wagner 2019; SEAT, AISec 2021; Blacklight, USENIX Security 2022)
in bounded memory: the last 256 sketches of a key, 12 coordinates of a byte each. A sketch is a Gaussian
projection, so any of its coordinates are one too (Johnson-Lindenstrauss): 12 give distances to 20 %.

What is near is measured against the key's own step, the mean distance between successive queries. Video
frames, test-time augmentation and blurred cameras are close to their predecessors, so they are not near by
that measure; augmentation of a shuffled seed set is. Exact repeats (retries, pollers) are not near copies.

Blind to: copies further back than 256 queries; attacks that move as far as ordinary traffic does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detectors.alert import Family
    from detectors.base import Array, Fields, Slabs
    from detectors.batch import EventBatch
    from detectors.reference import EventReference

RING_LENGTH = 256
RING_SIZE = 12
QUANTA_PER_PAIR = 24.0
"""Quantisation: one typical coordinate difference between two random queries is 24 steps of a byte."""
NEAR_RATIO = 0.3
"""Near: closer than this share of the key's own step. Measured on benign keys: clean image keys reach 0.45
at the median, Jacobian augmentation 0.2 (`modelwarden evaluate`)."""
NEAR_LAG = 8
"""A copy of one of the last 8 queries is a run (frames, retries, what-if), not augmentation."""
FLIP_DISTANCE = 0.5
"""In median pair distances: a neighbour this close is the same thing to a person, so another label is odd."""
MIDPOINT_DISTANCE = 0.2
"""In median pair distances: closer ends are frames or noise, whose middles mean nothing."""
MIDPOINT_RATIO = 0.3
"""The far end must lie this close, in distances to the near end, to where a middle puts it: quantisation
alone gives 0.1."""
STEP_HORIZON = 64


class NearDuplicate:
    """Compare with the key's last 256 queries.

    Scores
    ------
    near_copy : 1 if the nearest earlier query is near, and not one of the last eight.
    label_flip : 1 if the nearest earlier query is close, and was given another class.
    echo : 1 if the nearest earlier query lies exactly as far back as it did for the query before, and not
        within the last eight: the key walks through its own history in step, as every round of an
        augmentation or of a batched search does. Needs no distance scale, so it sees large steps too.
    midpoint : 1 if the query lies halfway between two earlier ones, as every step of a bisection does.
    novelty : distance to the nearest remembered query in median pair distances; 1 for the first query.

    All but the last are NaN for an exact repeat: it says nothing about copies.
    """

    name: ClassVar[str] = "near_duplicate"
    family: ClassVar[Family] = "near_duplicate"
    scores: ClassVar[tuple[str, ...]] = (
        *("near_copy", "label_flip", "echo", "midpoint"),
        "novelty",
    )
    fields: ClassVar[Fields] = {
        "ring": ("i1", (RING_SIZE, RING_LENGTH)),
        "ring_class": ("u1", (RING_LENGTH,)),
        "ring_count": ("u4", ()),
        "step_mean": ("f4", ()),
        "last_lag": ("u2", ()),
    }

    def __init__(self, reference: EventReference) -> None:
        """Quantise around this reference's ring centre, in units of its median pair distance."""
        self._centre = reference.ring_centre[:RING_SIZE]
        coordinate = float(reference.pair_distance[0]) / np.sqrt(reference.input_centres.shape[1])
        self._quantum = np.float32(coordinate / QUANTA_PER_PAIR)

    def score(self, batch: EventBatch, slots: NDArray[np.int64], slabs: Slabs) -> NDArray[np.float32]:
        """Score each row, then remember it: float32 (n, 5); NaN where the sketch is absent."""
        out = np.full((len(batch), len(self.scores)), np.nan, np.float32)
        scaled = (batch.input_sketch[:, :RING_SIZE] - self._centre) / self._quantum
        present = np.isfinite(scaled).all(axis=1)
        code = np.clip(np.rint(np.where(np.isfinite(scaled), scaled, 0)), -127, 127).astype(np.int8)
        label = (batch.predicted_class & 0xFF).astype(np.uint8)
        _score(code, label, present, slots, *(slabs[name] for name in self.fields), out)
        return out


@njit(cache=True, nogil=True)
def _score(
    code: Array,
    label: Array,
    present: Array,
    slots: Array,
    ring: Array,
    ring_class: Array,
    ring_count: Array,
    step_mean: Array,
    last_lag: Array,
    out: Array,
) -> None:
    unit = np.float32(1.0 / (QUANTA_PER_PAIR * np.sqrt(RING_SIZE)))
    squared = np.empty(RING_LENGTH, np.int32)
    point = np.empty(RING_SIZE, np.int32)
    for i in range(len(slots)):
        if not present[i]:
            continue
        slot = slots[i]
        count = np.int64(ring_count[slot])
        position = count % RING_LENGTH
        out[i, :4], out[i, 4] = 0.0, 1.0
        if count > 0:
            filled = min(count, RING_LENGTH)
            point[:] = code[i]
            _distances(point, ring[slot], filled, squared)
            nearest, lag = _nearest(squared, filled, position)
            where = (position - lag) % RING_LENGTH
            out[i, 4] = np.sqrt(np.float32(nearest)) * unit
            if nearest == 0:
                out[i, :4] = np.nan
            else:
                step = min(step_mean[slot], np.float32(1.2))
                out[i, 0] = lag > NEAR_LAG and count > 1 and out[i, 4] < NEAR_RATIO * step
                out[i, 1] = out[i, 4] < FLIP_DISTANCE and ring_class[slot, where] != label[i]
                out[i, 2] = lag > NEAR_LAG and lag == last_lag[slot]
                last_lag[slot] = lag
                if out[i, 4] > MIDPOINT_DISTANCE:
                    for j in range(RING_SIZE):  # the point opposite to the nearest
                        point[j] = 2 * point[j] - ring[slot, j, where]
                    _distances(point, ring[slot], filled, squared)
                    out[i, 3] = _least(squared, filled) < MIDPOINT_RATIO**2 * nearest
            _learn_step(code[i], ring[slot], (position - 1) % RING_LENGTH, count, slot, step_mean, unit)
        ring[slot, :, position] = code[i]
        ring_class[slot, position] = label[i]
        ring_count[slot] = count + 1


@njit(cache=True, nogil=True)
def _distances(point: Array, ring: Array, filled: int, out: Array) -> None:
    """Write the squared distances of a point to the remembered codes, int32.

    Four coordinates after the other over all codes, which the compiler turns into vector instructions.
    """
    out[:filled] = 0
    for j in range(0, RING_SIZE, 4):
        p0, p1, p2, p3 = point[j], point[j + 1], point[j + 2], point[j + 3]
        r0, r1, r2, r3 = ring[j], ring[j + 1], ring[j + 2], ring[j + 3]
        for place in range(filled):
            d0, d1 = np.int32(p0 - r0[place]), np.int32(p1 - r1[place])
            d2, d3 = np.int32(p2 - r2[place]), np.int32(p3 - r3[place])
            out[place] += np.int32(d0 * d0 + d1 * d1 + d2 * d2 + d3 * d3)


@njit(cache=True, nogil=True)
def _least(values: Array, count: int) -> Any:
    """Return the smallest of the first values, int32."""
    least = np.int32(2**31 - 1)
    for place in range(count):
        least = min(least, values[place])
    return least


@njit(cache=True, nogil=True)
def _nearest(squared: Array, filled: int, position: int) -> tuple[int, int]:
    """Return the nearest code's squared distance and its lag; of equally near ones the latest.

    The lag, less one, takes the last eight bits of a number whose first bits are the distance.
    """
    for place in range(filled):
        squared[place] = np.int32(squared[place] * RING_LENGTH + ((position - 1 - place) % RING_LENGTH))
    best = int(_least(squared, filled))
    return best // RING_LENGTH, best % RING_LENGTH + 1


@njit(cache=True, nogil=True)
def _learn_step(
    code: Array, ring: Array, previous: int, count: int, slot: int, step_mean: Array, unit: float
) -> None:
    """Follow the mean distance between successive queries."""
    total = 0
    for j in range(RING_SIZE):
        difference = int(code[j]) - int(ring[j, previous])
        total += difference * difference
    step = np.sqrt(np.float32(total)) * unit
    step_mean[slot] += (step - step_mean[slot]) / np.float32(min(count, STEP_HORIZON))
