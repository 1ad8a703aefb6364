"""How much of what a key newly asks has been asked by others before.

Honest customers of one service overlap: shared tools, tasks and topics make some of their inputs close to
those of other keys. A set made to distil a model covers the space without touching what is asked there. No
single input is odd, so the signal counts: of a key's inputs that are new to itself, the share that has a
benign neighbour within the distance at which `FAMILIAR_RATIO` of benign inputs have one in other keys
(nearest-neighbour detection, Sun et al., ICML 2022, on the level of keys instead of inputs). The logarithm of
the share goes on growing while no familiar input comes.

New to itself: its cell, the signs of 12 random projections, is not marked in a map of 512 bits (coverage of
the input space as in B4B, Dubinski et al., NeurIPS 2023). Repeats, retries and loops add nothing. At three
quarters full the map is cleared and the counts halved, so an honest past is forgotten. 74 bytes per key.
After the first 128, one new input in four is compared, and stands for four.

Blind to: attacks with inputs like those of other customers. Says nothing without remembered benign inputs
(`detectors.familiar`). Known evasion: whoever counts along knows which inputs of a long key are compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from detectors.batch import SKETCH_SIZE
from detectors.familiar import find_near, pad_points
from detectors.kernelcache import njit
from detectors.lanes import LANES, TOGETHER, load_lanes, project
from detectors.prefetch import prefetch, slot_ahead
from detectors.signals.out_of_distribution import class_rows
from detectors.words import is_finite

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detectors.alert import Family
    from detectors.base import Array, Events, Fields, Slabs
    from detectors.reference import EventReference

PLANES = 12
MAP_BITS = 512
FULL_BITS = 384
PRIOR_COUNT = 16.0
"""Inputs that the benign share counts for at the start of a key."""
FAMILIAR_RATIO = 0.4
"""Share of benign inputs that are familiar; the prior."""
ALL_COMPARED, COMPARED_EVERY = 128, 4
"""The share of many is as well known from a sample, and comparing is most of the work."""
_MIX = np.uint64(0x9E3779B97F4A7C15)


class Familiarity:
    """Share of a key's new inputs that other keys' inputs are close to.

    Scores
    ------
    unfamiliar : -ln of that share, with a prior; NaN where the sketch is absent or nothing is remembered.
    """

    name: ClassVar[str] = "familiarity"
    family: ClassVar[Family] = "distribution"
    counts_all: ClassVar[bool] = False
    scores: ClassVar[tuple[str, ...]] = ("unfamiliar",)
    fields: ClassVar[Fields] = {
        "cell_map": ("u8", (MAP_BITS // 64,)),
        "cells_marked": ("u2", ()),
        "new_inputs": ("f4", ()),
        "familiar_inputs": ("f4", ()),
    }

    def __init__(self, reference: EventReference) -> None:
        """Compare with the inputs that this reference remembers."""
        planes = np.random.default_rng(3).standard_normal((PLANES, SKETCH_SIZE)).astype(np.float32)
        self._known = (
            reference.classes,
            np.ascontiguousarray(planes.T),
            reference.input_centres[-1:],
            pad_points(reference.familiar_points),
            np.square(reference.familiar_points).sum(axis=0),
            reference.familiar_start,
            reference.familiar_distance,
        )

    @property
    def kernel(self) -> Any:
        """Score rows (`score_familiarity`)."""
        return score_familiarity

    def arguments(self, events: Events, slots: NDArray[np.int64], slabs: Slabs) -> tuple[Any, ...]:
        """Return the sketches, what others asked, and the slabs of the keys."""
        state = [slabs[name] for name in self.fields]
        columns = events.rows, events.sketch, events.words, events.predicted
        return *columns, slots, *self._known, *state


@njit(cache=True, nogil=True)
def score_familiarity(
    out: Array, rows: Array, sketch: Array, words: Array, predicted: Array, slots: Array,
    classes: Array, planes: Array, centre: Array,
    points: Array, norms: Array, start: Array, distance: Array,
    cell_map: Array, cells_marked: Array, new_inputs: Array, familiar_inputs: Array,
) -> None:  # fmt: skip
    """Score each row, in order; NaN where the sketch is absent or nothing is remembered."""
    if len(norms) == 0:
        return
    count, own = len(slots), class_rows(predicted[rows], classes)
    bits, seen = np.empty(count, np.int64), np.empty(count, np.float32)
    weight, is_full = np.zeros(count, np.float32), np.zeros(count, np.bool_)
    near = np.empty(count, np.bool_)
    _cells(sketch, rows, planes, centre, bits)
    for i in range(count):
        prefetch(cell_map, slot_ahead(slots, i))
        prefetch(new_inputs, slot_ahead(slots, i))
        seen[i] = np.nan
        if is_finite(words[rows[i]]):
            weight[i], is_full[i] = _mark(bits[i], slots[i], cell_map, cells_marked, new_inputs)
            seen[i] = new_inputs[slots[i]]
    find_near(sketch, rows, own, weight > 0, points, norms, start, distance[0], near)
    for i in range(count):
        if np.isnan(seen[i]):
            continue
        slot = slots[i]
        familiar_inputs[slot] += weight[i] * np.float32(near[i])
        if is_full[i]:
            familiar_inputs[slot] *= np.float32(0.5)
        share = (familiar_inputs[slot] + PRIOR_COUNT * FAMILIAR_RATIO) / (seen[i] + PRIOR_COUNT)
        out[i, 0] = -np.log(share)


@njit(cache=True, nogil=True, inline="always")
def _mark(bit: int, slot: int, cell_map: Array, cells_marked: Array, new_inputs: Array) -> tuple[Any, bool]:
    """Mark a cell; return for how many new inputs the row stands, 0 if none, and whether the map got full."""
    word, mask = bit // 64, np.uint64(1) << np.uint64(bit % 64)
    if cell_map[slot, word] & mask:
        return np.float32(0), False
    cell_map[slot, word] |= mask
    cells_marked[slot] += np.uint16(1)
    weight = np.float32(1)
    if new_inputs[slot] >= ALL_COMPARED:
        weight = np.float32(0 if cells_marked[slot] % COMPARED_EVERY else COMPARED_EVERY)
    new_inputs[slot] += weight
    if cells_marked[slot] < FULL_BITS:
        return weight, False
    cell_map[slot, :] = np.uint64(0)
    cells_marked[slot] = 0
    new_inputs[slot] *= np.float32(0.5)
    return weight, True


@njit(cache=True, nogil=True)
def _cells(sketch: Array, rows: Array, planes: Array, centre: Array, bits: Array) -> None:
    """Write the place in the map of each sketch's cell."""
    apart = np.zeros((SKETCH_SIZE, LANES), np.float32)
    sides, cell = np.empty((TOGETHER, LANES), np.float32), np.empty(LANES, np.uint64)
    first, one = np.zeros(len(rows), np.int64), np.uint64(1)
    for start in range(0, len(rows), LANES):
        count = load_lanes(sketch, rows, first, centre, start, apart)
        cell[:] = 0
        for k in range(0, PLANES, TOGETHER):
            project(apart, 0, planes, k, 0, count, sides)
            for side in sides:
                for i in range(count):
                    cell[i] = (cell[i] << one) | np.uint64(side[i] > 0)
        for i in range(count):
            bits[start + i] = np.int64(((cell[i] + one) * _MIX) >> np.uint64(40)) % MAP_BITS
