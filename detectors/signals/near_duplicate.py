"""Whether a query is a near copy of the key's earlier queries, in their order, or a small step around one.

The idea of stateful defences (Chen, Carlini, Wagner 2019; SEAT, AISec 2021; Blacklight, USENIX Security 2022)
in bounded memory: the last 256 sketches of a key, 12 coordinates of a byte each. A sketch is a Gaussian
projection, so any of its coordinates are one too (Johnson-Lindenstrauss): 12 give distances to 20 %.

What is near is measured against the key's own step, the mean distance between successive queries. Video
frames, test-time augmentation and blurred cameras are close to their predecessors, so they are not near by
that measure; augmentation of a shuffled seed set is. Exact repeats (retries, pollers) are not near copies.

Order needs no distance at all. If the queries' nearest earlier ones lie in the ring in the order of the
queries, the key walks through its own history: every round of an augmentation and of a batched search does,
diluted or not. Where honest keys' nearest ones lie says nothing about the next, so the p-value of so small a
gap holds for every key (recurrence analysis counts the same diagonals: Marwan et al., Physics Reports 2007).

Gradient estimates (finite differences, HopSkipJump, NES) take small steps of equal length around a centre:
successive differences of such points have equal lengths and an angle of 120 degrees.

Blind to: copies further back than 256 queries; copies in shuffled order that move as far as ordinary traffic.
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
ECHO_PLACES = 3
"""Last queries whose nearest ones a query may follow: among half ordinary traffic, seven in eight do."""
PROBE_DISTANCE = 0.5
"""In median pair distances: steps as long as between unrelated queries are of equal length by chance."""
PROBE_RATIO = 2.7
"""Squared steps that differ by less are equal: of twelve coordinates, nine in ten equal steps are."""
PROBE_COSINE = (-0.9, -0.1)
"""Cosine of successive differences around a centre: -0.5, give or take what twelve coordinates allow."""
PROBE_BENIGN, PROBE_ATTACK = 0.5, 0.8
"""Share of probes that honest keys stay below, even with video or samples around a record; an attack's."""
PROBE_LARGEST = 30.0
PROBE_FLOOR = 6
"""Squared steps, in quanta, below which quantisation hides lengths and angles: both count as equal."""

_PROBE_GAIN = np.log10(PROBE_ATTACK / PROBE_BENIGN)
_PROBE_LOSS = np.log10((1 - PROBE_ATTACK) / (1 - PROBE_BENIGN))


class NearDuplicate:
    """Compare with the key's last 256 queries.

    Scores
    ------
    near_copy : 1 if the nearest earlier query is near, and not one of the last eight.
    label_flip : 1 if the nearest earlier query is close, and was given another class.
    echo : -log10 p of how shortly the nearest earlier query comes after those of the last three queries,
        uniform under honest use; NaN if it is one of the last eight.
    midpoint : 1 if the query lies halfway between two earlier ones, as every step of a bisection does.
    probe : log10 of the evidence that more than `PROBE_BENIGN` of the last queries are probes: small steps,
        equally long, at the angle of points around one centre (CUSUM of Page, Biometrika 1954).
    novelty : distance to the nearest remembered query in median pair distances; 1 for the first query.

    All but the last are NaN for an exact repeat: it says nothing about copies. A query is one if codes and
    four bits of a hash of the whole sketch agree, so of steps below a quantum one in sixteen is lost.
    """

    name: ClassVar[str] = "near_duplicate"
    family: ClassVar[Family] = "near_duplicate"
    scores: ClassVar[tuple[str, ...]] = (
        *("near_copy", "label_flip", "echo", "midpoint", "probe"),
        "novelty",
    )
    fields: ClassVar[Fields] = {
        "ring": ("i1", (RING_SIZE, RING_LENGTH)),
        "ring_tag": ("u1", (RING_LENGTH,)),
        "ring_count": ("u4", ()),
        "step_mean": ("f4", ()),
        "last_places": ("u1", (ECHO_PLACES,)),
        "probe_evidence": ("f4", ()),
    }

    def __init__(self, reference: EventReference) -> None:
        """Quantise around this reference's ring centre, in units of its median pair distance."""
        self._centre = reference.ring_centre[:RING_SIZE]
        coordinate = float(reference.pair_distance[0]) / np.sqrt(reference.input_centres.shape[1])
        self._quantum = np.float32(coordinate / QUANTA_PER_PAIR)

    def score(self, batch: EventBatch, slots: NDArray[np.int64], slabs: Slabs) -> NDArray[np.float32]:
        """Score each row, then remember it: float32 (n, 6); NaN where the sketch is absent."""
        out = np.full((len(batch), len(self.scores)), np.nan, np.float32)
        scaled = (batch.input_sketch[:, :RING_SIZE] - self._centre) / self._quantum
        present = np.isfinite(scaled).all(axis=1)
        code = np.clip(np.rint(np.where(np.isfinite(scaled), scaled, 0)), -127, 127).astype(np.int8)
        tag = _tags(batch.input_sketch, batch.predicted_class)
        _score(code, tag, present, slots, *(slabs[name] for name in self.fields), out)
        return out


def _tags(sketch: NDArray[np.float32], predicted: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Return what is remembered beside a code: the class in the upper four bits, a hash in the lower."""
    words = (np.ascontiguousarray(sketch) + np.float32(0)).view(np.uint32)  # -0.0 and 0.0 are one
    mixed = words.sum(axis=1, dtype=np.uint32) * np.uint32(0x9E3779B1) >> np.uint32(28)
    tag: NDArray[np.uint8] = ((predicted & 15) << 4).astype(np.uint8) | mixed.astype(np.uint8)
    return tag


@njit(cache=True, nogil=True)
def _score(
    code: Array,
    tag: Array,
    present: Array,
    slots: Array,
    ring: Array,
    ring_tag: Array,
    ring_count: Array,
    step_mean: Array,
    last_places: Array,
    probe_evidence: Array,
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
        out[i, :5], out[i, 5] = 0.0, 1.0
        if count > 0:
            filled = min(count, RING_LENGTH)
            point[:] = code[i]
            _distances(point, ring[slot], filled, squared)
            nearest, lag = _nearest(squared, filled, position)
            where = (position - lag) % RING_LENGTH
            out[i, 5] = np.sqrt(np.float32(nearest)) * unit
            if nearest == 0 and (ring_tag[slot, where] ^ tag[i]) & 15 == 0:
                out[i, :5] = np.nan
            else:
                step = min(step_mean[slot], np.float32(1.2))
                out[i, 0] = lag > NEAR_LAG and count > 1 and out[i, 5] < NEAR_RATIO * step
                out[i, 1] = out[i, 5] < FLIP_DISTANCE and (ring_tag[slot, where] ^ tag[i]) >> 4 != 0
                out[i, 2] = _echo(where, last_places[slot], position) if lag > NEAR_LAG else np.nan
                last_places[slot, 1:] = last_places[slot, :-1].copy()
                last_places[slot, 0] = where
                if out[i, 5] > MIDPOINT_DISTANCE:
                    for j in range(RING_SIZE):  # the point opposite to the nearest
                        point[j] = 2 * point[j] - ring[slot, j, where]
                    _distances(point, ring[slot], filled, squared)
                    out[i, 3] = _least(squared, filled) < MIDPOINT_RATIO**2 * nearest
                if count > 1:
                    probes = _is_probe(code[i], ring[slot], position)
                    change = _PROBE_GAIN if probes else _PROBE_LOSS
                    probe_evidence[slot] = min(max(probe_evidence[slot] + change, 0.0), PROBE_LARGEST)
                out[i, 4] = probe_evidence[slot]
            _learn_step(code[i], ring[slot], (position - 1) % RING_LENGTH, count, slot, step_mean, unit)
        ring[slot, :, position] = code[i]
        ring_tag[slot, position] = tag[i]
        ring_count[slot] = count + 1


@njit(cache=True, nogil=True)
def _echo(place: int, last_places: Array, position: int) -> float:
    """Return -log10 p of the smallest gap from one of the last places on, by the union bound.

    Places are taken to be uniform between the farthest of them and now: a sweep sorted by class stays near.
    """
    gap, reach = RING_LENGTH, (position - place - 1) % RING_LENGTH + 1
    for last in last_places:
        reach = max(reach, (position - last - 1) % RING_LENGTH + 1)
        if place != last:
            gap = min(gap, (place - last) % RING_LENGTH)
    return float(-np.log10(min(1.0, ECHO_PLACES * gap / reach)))


@njit(cache=True, nogil=True)
def _is_probe(code: Array, ring: Array, position: int) -> bool:
    """Tell whether the last two steps are small, equal, and at the angle of points around a centre."""
    first, second, product = 0, 0, 0
    for j in range(RING_SIZE):
        middle = int(ring[j, (position - 1) % RING_LENGTH])
        new, old = int(code[j]) - middle, middle - int(ring[j, (position - 2) % RING_LENGTH])
        first, second, product = first + old * old, second + new * new, product + old * new
    if max(first, second) > (PROBE_DISTANCE * QUANTA_PER_PAIR) ** 2 * RING_SIZE:
        return False
    if max(first, second) <= PROBE_FLOOR:
        return True
    low, high = PROBE_COSINE
    cosine = product / np.sqrt(max(first * second, 1))
    return max(first, second) < PROBE_RATIO * min(first, second) and low < cosine < high


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
