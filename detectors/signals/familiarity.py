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

Blind to: attacks with inputs like those of other customers. Says nothing without remembered benign inputs
(`detectors.familiar`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numba import njit

from detectors.familiar import is_near
from detectors.signals.out_of_distribution import class_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detectors.alert import Family
    from detectors.base import Array, Fields, Slabs
    from detectors.batch import EventBatch
    from detectors.reference import EventReference

PLANES = 12
MAP_BITS = 512
FULL_BITS = 384
PRIOR_COUNT = 16.0
"""Inputs that the benign share counts for at the start of a key."""
FAMILIAR_RATIO = 0.4
"""Share of benign inputs that are familiar; the prior."""
_MIX = np.uint64(0x9E3779B97F4A7C15)


class Familiarity:
    """Share of a key's new inputs that other keys' inputs are close to.

    Scores
    ------
    unfamiliar : -ln of that share, with a prior; NaN where the sketch is absent or nothing is remembered.
    """

    name: ClassVar[str] = "familiarity"
    family: ClassVar[Family] = "distribution"
    scores: ClassVar[tuple[str, ...]] = ("unfamiliar",)
    fields: ClassVar[Fields] = {
        "cell_map": ("u8", (MAP_BITS // 64,)),
        "cells_marked": ("u2", ()),
        "new_inputs": ("f4", ()),
        "familiar_inputs": ("f4", ()),
    }

    def __init__(self, reference: EventReference) -> None:
        """Compare with the inputs that this reference remembers."""
        self._reference = reference
        self._planes = np.random.default_rng(3).standard_normal((PLANES, 32)).astype(np.float32)

    def score(self, batch: EventBatch, slots: NDArray[np.int64], slabs: Slabs) -> NDArray[np.float32]:
        """Score each row, in order: float32 (n, 1)."""
        out = np.full((len(batch), 1), np.nan, np.float32)
        reference = self._reference
        if reference.familiar_points.shape[1]:
            row = class_rows(batch.predicted_class, reference.classes)
            _score(
                batch.input_sketch, row, slots, self._planes, reference.input_centres[-1],
                reference.familiar_points, reference.familiar_start, reference.familiar_distance,
                *(slabs[name] for name in self.fields), out,
            )  # fmt: skip
        return out


@njit(cache=True, nogil=True)
def _score(
    sketch: Array, row: Array, slots: Array, planes: Array, centre: Array,
    points: Array, start: Array, distance: Array,
    cell_map: Array, cells_marked: Array, new_inputs: Array, familiar_inputs: Array, out: Array,
) -> None:  # fmt: skip
    for i in range(len(slots)):
        if not np.isfinite(sketch[i]).all():
            continue
        slot = slots[i]
        bit = _cell(sketch[i], planes, centre)
        word, mask = bit // 64, np.uint64(1) << np.uint64(bit % 64)
        if not cell_map[slot, word] & mask:
            cell_map[slot, word] |= mask
            cells_marked[slot] += np.uint16(1)
            new_inputs[slot] += np.float32(1)
            near = is_near(sketch[i], points, start[row[i]], start[row[i] + 1], distance[0])
            familiar_inputs[slot] += np.float32(near)
            if cells_marked[slot] >= FULL_BITS:
                cell_map[slot, :] = np.uint64(0)
                cells_marked[slot] = 0
                new_inputs[slot] *= np.float32(0.5)
                familiar_inputs[slot] *= np.float32(0.5)
        share = (familiar_inputs[slot] + PRIOR_COUNT * FAMILIAR_RATIO) / (new_inputs[slot] + PRIOR_COUNT)
        out[i, 0] = -np.log(share)


@njit(cache=True, nogil=True, inline="always")
def _cell(sketch: Array, planes: Array, centre: Array) -> int:
    """Return the place in the map of the sketch's cell."""
    cell = np.uint64(0)
    for k in range(PLANES):
        total = np.float32(0)
        for j in range(len(centre)):
            total += planes[k, j] * (sketch[j] - centre[j])
        cell = (cell << np.uint64(1)) | np.uint64(total > 0)
    return int(((cell + np.uint64(1)) * _MIX) >> np.uint64(40)) % MAP_BITS
