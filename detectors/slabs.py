"""Slabs: the per-key state of signals as arrays, one row per slot, no longer than the keys seen ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from detectors.base import Array, Fields, Slabs

_FIRST_ROWS = 1024


def slot_bytes(fields: Fields) -> int:
    """Tell what one slot of the slabs of these fields takes."""
    return sum(np.dtype(dtype).itemsize * int(np.prod(shape)) for dtype, shape in fields.values())


def make_slabs(fields: Fields, rows: int = 0) -> Slabs:
    """Make zeroed slabs with that many slots; start small and let `grow_slabs` follow the key table."""
    return {name: np.zeros((rows, *shape), dtype) for name, (dtype, shape) in fields.items()}


def grow_slabs(slabs: Slabs, needed: int, capacity: int) -> None:
    """Give every slab at least `needed` slots, in place of the old arrays, one after the other.

    Slots are doubled as often as it takes, from 1,024, never beyond `capacity`; new ones are zero.
    """
    for name, slab in slabs.items():
        slabs[name] = grow_array(slab, needed, capacity)


def grow_array(array: Array, needed: int, capacity: int) -> Array:
    """Return the array itself if it has `needed` rows, else a longer copy; as `grow_slabs` does."""
    if len(array) >= needed:
        return array
    rows = max(_FIRST_ROWS, len(array))
    while rows < needed:
        rows *= 2
    grown = np.zeros((min(rows, capacity), *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown


def clear_slots(slabs: Slabs, slots: Array) -> None:
    """Zero the rows of these slots, in place."""
    for slab in slabs.values():
        slab[slots] = 0
