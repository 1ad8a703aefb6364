"""The state of keys: slabs of the hot ones, summaries of the cold ones, and how they come and go.

Written out in parts by ranges of slots, so that a snapshot need not repeat what did not change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from detectors.arrays import named
from detectors.coldstore import ColdStore
from detectors.keytable import KeyTable
from detectors.parts import PART_BYTES
from detectors.slabs import clear_slots, grow_slabs, make_slabs, slot_bytes
from detectors.watch import WATCH_FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from detectors.base import Array, Fields
    from detectors.batch import EventBatch

_HEADER: Fields = {
    "count": ("u4", ()),
    "first_offset": ("i8", ()),
    "hypothesis": ("u4", ()),
    "discovered": ("u1", ()),
}
FIELDS: Fields = {**_HEADER, **WATCH_FIELDS}
"""Everything kept of a hot key."""

_COLD_NAMES = (
    *("count", "first_ms", "first_offset", "level", "promoted"),
    *("surprise_peak", "z_peak", "mean", "mass"),
    *("cells", "cell_count", "label_count", "fresh", "held", "told", "hypothesis", "discovered"),
)
_HALVED = {"z_peak", "mean", "mass"}
COLD_ROW = np.dtype(
    [(name, "f2" if name in _HALVED else FIELDS[name][0], FIELDS[name][1]) for name in _COLD_NAMES]
)
"""What stays of a key that lost its slot: levels and running means, so that slow-and-low survives.

Means are kept in half precision: a part in 2,000 of what is compared is far below what keys differ by."""


class KeyState:
    """All keys of one engine.

    Parameters
    ----------
    hot_keys, cold_keys
        Keys kept in full, and summaries kept.

    Attributes
    ----------
    table : KeyTable
        Which slot holds which key.
    slabs : dict of arrays
        What is kept of the hot keys, by field, first axis the slot.
    cold : ColdStore
        Summaries of keys that lost their slots.
    """

    def __init__(self, hot_keys: int, cold_keys: int) -> None:
        self.table = KeyTable(hot_keys)
        self.slabs = make_slabs(FIELDS)
        self.cold = ColdStore(cold_keys, COLD_ROW)
        self._hot_ranges = _Ranges(max(PART_BYTES // slot_bytes(FIELDS), 1))
        self._cold_ranges = _Ranges(max(PART_BYTES // COLD_ROW.itemsize, 1))

    def __len__(self) -> int:
        """Count the hot keys."""
        return len(self.table)

    @property
    def nbytes(self) -> int:
        """Bytes of the slabs now."""
        return sum(slab.nbytes for slab in self.slabs.values())

    def admit(
        self, batch: EventBatch, models: NDArray[np.int32]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Count every row's key; return slots, event numbers, and slots taken from another key.

        Keys that lose their slots leave a cold summary; those that get one start from theirs, or from zero.
        """
        found = self.table.lookup(batch.key, batch.key_epoch, models, batch.time_ms)
        evicted = np.zeros(len(found.evicted), COLD_ROW)
        for name in _COLD_NAMES:
            evicted[name] = self.slabs[name][found.evicted]
        self._cold_ranges.mark(self.cold.put(found.evicted_entities, found.evicted_last_ms, evicted))
        grow_slabs(self.slabs, len(self.table), self.table.capacity)
        clear_slots(self.slabs, found.fresh)
        self.slabs["first_ms"][found.fresh] = batch.time_ms[found.fresh_rows]
        self.slabs["first_offset"][found.fresh] = batch.offset[found.fresh_rows]
        summaries, known = self.cold.recall(found.fresh_entities)
        for name in _COLD_NAMES:
            self.slabs[name][found.fresh[known]] = summaries[name][known]
        self._hot_ranges.mark(found.slots)
        number = np.empty(len(batch), np.int64)
        _count(found.slots, self.slabs["count"], number)
        return found.slots, number, found.evicted

    def touch(self, slots: NDArray[np.int64]) -> None:
        """Tell that something was written to these slots; `admit` knows of its own."""
        self._hot_ranges.mark(slots)

    def parts(self, *, changed_only: bool) -> Iterator[tuple[str, dict[str, Array]]]:
        """Yield named arrays by ranges of slots: all, or those that changed since `clean`."""
        for number, cut in self._hot_ranges.cut(len(self), changed_only=changed_only):
            arrays = {f"slab.{name}": slab[cut] for name, slab in self.slabs.items()}
            yield f"hot/{number}", arrays | {f"table.{n}": a for n, a in self.table.rows(cut).items()}
        for number, cut in self._cold_ranges.cut(len(self.cold), changed_only=changed_only):
            yield f"cold/{number}", self.cold.rows(cut)

    def clean(self) -> None:
        """Tell that everything was written."""
        self._hot_ranges.clean()
        self._cold_ranges.clean()

    @property
    def evictions(self) -> tuple[int, int]:
        """Hot keys that lost their slots so far, and summaries that were dropped; part of the state."""
        return self.table.evictions, self.cold.dropped

    def restore(self, parts: Mapping[str, Mapping[str, Array]], evictions: Sequence[int]) -> None:
        """Fill a fresh state from parts and the counts of evictions.

        Raises
        ------
        KeyError, ValueError
            If parts are missing or damaged, or hold more keys than there is room for.
        """
        hot, cold = _joined(parts, "hot"), _joined(parts, "cold")
        if hot:
            self.table.restore(named(hot, "table") | {"evictions": np.array(evictions[:1], np.int64)})
            grow_slabs(self.slabs, len(self), self.table.capacity)
            arrays = named(hot, "slab")
            for name, slab in self.slabs.items():
                slab[: len(self)] = arrays[name]
            self._hot_ranges.mark(np.arange(len(self)))
        if cold:
            self.cold.restore(cold | {"evictions": np.array(evictions[1:], np.int64)})
            self._cold_ranges.mark(np.arange(len(self.cold)))


@njit(cache=True, nogil=True)
def _count(slots: Array, count: Array, number: Array) -> None:
    for i in range(len(slots)):
        count[slots[i]] += 1
        number[i] = count[slots[i]]


class _Ranges:
    """Slots by ranges of equal length, and which of these changed since they were last written."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._changed = np.zeros(0, np.bool_)

    def mark(self, slots: NDArray[np.int64]) -> None:
        """Tell that these slots changed."""
        if not len(slots):
            return
        needed = int(slots.max()) // self._length + 1
        if needed > len(self._changed):
            grown = np.zeros(max(needed, 2 * len(self._changed)), np.bool_)
            grown[: len(self._changed)] = self._changed
            self._changed = grown
        self._changed[slots // self._length] = True

    def cut(self, used: int, *, changed_only: bool) -> Iterator[tuple[int, slice]]:
        """Yield number and slots of each range, of all `used` slots."""
        for number in range(-(-used // self._length)):
            if self._changed[number] or not changed_only:
                yield number, slice(number * self._length, min((number + 1) * self._length, used))

    def clean(self) -> None:
        """Forget all changes."""
        self._changed[:] = False


def _joined(parts: Mapping[str, Mapping[str, Array]], kind: str) -> dict[str, Array]:
    """Join the arrays of all parts of a kind in order of their numbers; empty if there are none."""
    prefix = f"{kind}/"
    numbers = sorted(int(name.removeprefix(prefix)) for name in parts if name.startswith(prefix))
    rows = [parts[f"{prefix}{number}"] for number in numbers]
    return {name: np.concatenate([row[name] for row in rows]) for name in (rows[0] if rows else ())}
