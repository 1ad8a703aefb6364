"""The state of keys: slabs of the hot ones, summaries of the cold ones, and how they come and go.

Written out in parts by ranges of slots, so that a snapshot need not repeat what did not change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from detectors.batch import SYNTHETIC_EPOCH, format_key_reference, parse_key_reference
from detectors.coldstore import COLD_LIMIT_BYTES, ColdStore
from detectors.kernelcache import njit
from detectors.keytable import ENTITY_WORDS, NO_SLOT, KeyTable, pack_entities, unpack_entity
from detectors.prefetch import prefetch, slot_ahead
from detectors.slabs import make_slabs, row_dtype, slot_bytes
from detectors.slotparts import CHANGED, SlotParts, assemble
from detectors.watch import WATCH_FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from detectors.base import Array, Fields
    from detectors.batch import EventBatch
    from detectors.keytable import Lookup

_HEADER: Fields = {
    "count": ("u4", ()),
    "first_offset": ("i8", ()),
    "hypothesis": ("u4", ()),
    "discovered": ("u1", ()),
    "verdict": ("u1", ()),
}
FIELDS: Fields = {**_HEADER, **WATCH_FIELDS}
"""Everything kept of a hot key."""

_COLD_NAMES = (
    *("count", "first_ms", "first_offset", "level", "promoted"),
    *("surprise_peak", "z_peak", "mean", "mass"),
    *("cells", "cell_count", "label_count", "fresh", "held", "told", "hypothesis", "discovered"),
    "verdict",
)
_HALVED = {"z_peak", "mean", "mass"}
COLD_ROW = np.dtype(
    [(name, "f2" if name in _HALVED else FIELDS[name][0], FIELDS[name][1]) for name in _COLD_NAMES]
)
"""What stays of a key that lost its slot: levels and running means, so that slow-and-low survives.

Means are kept in half precision: a part in 2,000 of what is compared is far below what keys differ by."""

KEY_LAYOUT = repr([row_dtype(FIELDS).descr, COLD_ROW.descr])
"""Names, types and places of all fields, hot and cold: a state of another layout is refused."""

MOST_SLOT_BYTES = slot_bytes(FIELDS) + 8 * ENTITY_WORDS + 12
"""What a hot key takes at most, its largest page included."""


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
    slabs : Slabs
        What is kept of the hot keys, by field, first axis the slot.
    cold : ColdStore
        Summaries of keys that lost their slots.
    """

    def __init__(self, hot_keys: int, cold_keys: int) -> None:
        self.table = KeyTable(hot_keys)
        self.slabs = make_slabs(FIELDS, hot_keys)
        self.cold = ColdStore(cold_keys, COLD_ROW)
        self._hot_parts = SlotParts("hot", hot_keys, MOST_SLOT_BYTES)
        self._cold_parts = SlotParts("cold", cold_keys, COLD_LIMIT_BYTES)

    def __len__(self) -> int:
        """Count the hot keys."""
        return len(self.table)

    @property
    def nbytes(self) -> int:
        """Bytes of the hot keys now."""
        return len(self) * self.slabs.rows.dtype.itemsize + self.slabs.pages.nbytes

    def key_of(self, slot: int) -> str:
        """Return the key reference that a slot holds."""
        high, low, epoch, _ = unpack_entity(self.table.entities[slot])
        return format_key_reference(epoch, high, low)

    def model_of(self, slot: int) -> int:
        """Return the number of the model for which a slot holds its key."""
        return unpack_entity(self.table.entities[slot])[3]

    def slots_of(self, key: str, model_count: int) -> list[int]:
        """Return the slots of a key, over the models that there are.

        Raises
        ------
        ValueError
            If the text is not a key reference.
        """
        epoch, high, low = parse_key_reference(key)
        entities = pack_entities(
            np.array([[high, low]] * model_count, np.uint64).reshape(model_count, 2),
            np.full(model_count, epoch, np.uint16),
            np.arange(model_count, dtype=np.int32),
        )
        return [int(slot) for slot in self.table.find(entities) if slot != NO_SLOT]

    def members(self, model: int) -> NDArray[np.int64]:
        """Return the slots of a model's keys, without the canary's."""
        rest = self.table.entities[:, 2]
        is_real = rest >> np.uint64(32) != SYNTHETIC_EPOCH
        return np.flatnonzero(((rest & np.uint64(0xFFFFFFFF)) == model) & is_real)

    def admit(
        self, batch: EventBatch, models: NDArray[np.int32]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Count every row's key; return slots, event numbers, and slots taken from another key.

        Keys that lose their slots leave a cold summary; those that get one start from theirs, or from zero.
        """
        found = self.table.lookup(batch.key, batch.key_epoch, models, batch.time_ms)
        if len(found.evicted):
            self._cool(found)
        if len(found.fresh):
            self._warm(found, batch)
        number = np.empty(len(batch), np.int64)
        _count(found.slots, self.slabs["count"], self._hot_parts.changed, number)
        return found.slots, number, found.evicted

    def _cool(self, found: Lookup) -> None:
        """Keep summaries of the keys that lose their slots."""
        evicted = np.zeros(len(found.evicted), COLD_ROW)
        for name in _COLD_NAMES:
            evicted[name] = self.slabs[name][found.evicted]
        places = self.cold.put(found.evicted_entities, found.evicted_last_ms, evicted)
        self._cold_parts.changed[places] = CHANGED
        self.slabs.clear(found.evicted)

    def _warm(self, found: Lookup, batch: EventBatch) -> None:
        """Let the keys that get a slot start from their summaries, if there are any."""
        self.slabs["first_ms"][found.fresh] = batch.time_ms[found.fresh_rows]
        self.slabs["first_offset"][found.fresh] = batch.offset[found.fresh_rows]
        if len(self.cold):
            summaries, known = self.cold.recall(found.fresh_entities)
            for name in _COLD_NAMES:
                self.slabs[name][found.fresh[known]] = summaries[name][known]

    def touch(self, slots: NDArray[np.int64]) -> None:
        """Tell that something was written to these slots; `admit` knows of its own."""
        self._hot_parts.changed[slots] = CHANGED

    def export(self, slots: NDArray[np.int64]) -> dict[str, Array]:
        """Return what is kept of some hot keys."""
        return self.slabs.export(slots) | self.table.rows(slots)

    def parts(self, number: int, *, changed_only: bool) -> Iterator[tuple[str, dict[str, Array]]]:
        """Yield arrays by name of part: all keys, or those that changed since `clean`."""
        yield from self._hot_parts.cut(self, number, changed_only=changed_only)
        yield from self._cold_parts.cut(self.cold, number, changed_only=changed_only)

    def replaced(self, number: int) -> tuple[str, ...]:
        """Return what the names of parts begin with that a write of changes replaces."""
        return self._hot_parts.replaced(number), self._cold_parts.replaced(number)

    def clean(self, number: int, *, changed_only: bool) -> None:
        """Tell that everything `parts` gave was written."""
        self._hot_parts.clean(len(self), number, changed_only=changed_only)
        self._cold_parts.clean(len(self.cold), number, changed_only=changed_only)

    @property
    def evictions(self) -> tuple[int, int]:
        """Hot keys that lost their slots so far, and summaries that were dropped; part of the state."""
        return self.table.evictions, self.cold.dropped

    def restore(self, parts: Mapping[str, Mapping[str, Array]], evictions: Sequence[int]) -> None:
        """Fill a fresh state from parts and the counts of evictions; they count as written.

        Raises
        ------
        KeyError, ValueError
            If parts are missing or damaged, or hold more keys than there is room for.
        """
        hot, cold = self._hot_parts.join(parts), self._cold_parts.join(parts)
        if hot:
            self.table.restore(_table(hot, evictions[0]))
        filled = np.zeros(len(self), np.bool_)
        for part in hot:
            slots = part["slots"].astype(np.int64)
            self.slabs.clear(slots[filled[slots]])
            self.slabs.fill(slots, part)
            filled[slots] = True
        if cold:
            self.cold.restore(_table(cold, evictions[1]) | {"rows": assemble(cold, "rows")})


def _table(parts: Sequence[Mapping[str, Array]], evictions: int) -> dict[str, Array]:
    """Return what a key table is restored from."""
    columns = {name: assemble(parts, name) for name in ("entities", "last_ms")}
    return columns | {"evictions": np.array([evictions], np.int64)}


@njit(cache=True, nogil=True)
def _count(slots: Array, count: Array, changed: Array, number: Array) -> None:
    for i in range(len(slots)):
        prefetch(count, slot_ahead(slots, i))
        count[slots[i]] += 1
        changed[slots[i]] = CHANGED
        number[i] = count[slots[i]]
