"""Which slot of the slabs holds which key, and which key gives its slot up.

An entity is one API key as seen by one model: (128-bit key, rotation epoch, model), packed into three uint64.
`KeyTable` maps entities to slots. The engine moves state with them:

>>> found = table.lookup(batch.key, batch.key_epoch, batch.model, batch.time_ms)
>>> cold.put(found.evicted_entities, found.evicted_last_ms, summarise(slabs, found.evicted))
>>> slabs.clear(found.evicted)
>>> summaries, known = cold.recall(found.fresh_entities)
>>> warm(slabs, found.fresh[known], summaries[known])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from detectors.kernelcache import njit
from detectors.memory import reserve
from detectors.prefetch import ROWS_AHEAD, prefetch
from detectors.words import mix

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from detectors.base import Array

ENTITY_WORDS = 3
"""Words of a packed entity: key high, key low, epoch << 32 | model."""

NO_SLOT = -1
"""Stands for the slot of an unknown entity."""

_SAMPLE = 32


@dataclass(frozen=True, slots=True)
class Lookup:
    """What one batch did to a table: n rows, f fresh entities, e evictions.

    Attributes
    ----------
    slots : int64 (n,)
        The slot of each row.
    fresh, fresh_rows : int64 (f,)
        Slots given to entities that had none, in order of first appearance, and the rows where they appeared.
        Clear these slots before use: some held another entity.
    fresh_entities : uint64 (f, 3)
        Their entities.
    evicted : int64 (e,)
        Those of `fresh` that held another entity until now, in the same order. Their slab rows still
        belong to that entity.
    evicted_entities, evicted_last_ms : uint64 (e, 3), int64 (e,)
        Who held them, and when each was last seen.
    """

    slots: NDArray[np.int64]
    fresh: NDArray[np.int64]
    fresh_rows: NDArray[np.int64]
    fresh_entities: NDArray[np.uint64]
    evicted: NDArray[np.int64]
    evicted_entities: NDArray[np.uint64]
    evicted_last_ms: NDArray[np.int64]


class KeyTable:
    """Entities to slots 0 .. capacity - 1, by open addressing with linear probing at a load of at most 1/2.

    A full table evicts the least recently seen (by event time) of 32 slots drawn pseudo-randomly, as
    Redis does for its keys; up to 32 slots, of all. An entity of the current batch is never evicted. The draw
    depends on nothing but the number of evictions so far, so a replay evicts the same keys.

    Parameters
    ----------
    capacity
        Entities held at once, 1 to 2**31 - 1.

    Raises
    ------
    ValueError
        If the capacity is out of range.
    """

    def __init__(self, capacity: int) -> None:
        if not 1 <= capacity < 2**31:
            raise ValueError(f"capacity {capacity} is not between 1 and {2**31 - 1}")
        self.capacity = capacity
        self._clear()

    def _clear(self) -> None:
        self._index = reserve((_index_size(self.capacity),), np.uint64)
        self._entities = reserve((self.capacity, ENTITY_WORDS), np.uint64)
        self._seen = reserve((self.capacity, 2), np.int64)  # latest event time, and number of the batch
        self._batches = 0
        self._used = 0
        self._evictions = 0

    def __len__(self) -> int:
        """Count the slots in use; they are 0 .. len - 1."""
        return self._used

    @property
    def evictions(self) -> int:
        """Entities evicted since the table was made."""
        return self._evictions

    @property
    def entities(self) -> NDArray[np.uint64]:
        """Entities by slot, uint64 (len, 3); read only."""
        return _read_only(self._entities[: self._used])

    @property
    def last_ms(self) -> NDArray[np.int64]:
        """Latest event time by slot, int64 (len,); read only."""
        return _read_only(self._seen[: self._used, 0])

    def find(self, entities: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the slots of packed entities (n, 3), -1 where unknown; nothing changes."""
        slots: NDArray[np.int64] = _find(self._index, self._entities, entities)
        return slots

    def lookup(
        self,
        key: NDArray[np.uint64],
        epoch: NDArray[np.uint16],
        model: NDArray[np.int32],
        time_ms: NDArray[np.int64],
    ) -> Lookup:
        """Return the slot of every row (columns of an `EventBatch`), giving slots to new entities.

        As long as nothing is evicted, the outcome does not depend on how rows are cut into batches.

        Raises
        ------
        ValueError
            If the rows hold more entities than the table has slots; nothing has changed then.
        """
        return self.lookup_entities(pack_entities(key, epoch, model), time_ms)

    def lookup_entities(self, entities: NDArray[np.uint64], time_ms: NDArray[np.int64]) -> Lookup:
        """Do as `lookup` does, for packed entities (n, 3)."""
        self._check_room(entities)
        self._batches += 1
        table = (self._index, self._entities, self._seen, self._batches)
        slots, missing = _mark(*table, entities, time_ms)
        fresh, rows, evicted, evicted_entities, evicted_last_ms = _allocate(
            *table, self._used, self._evictions, entities, time_ms, slots, missing
        )
        self._evictions += len(evicted)
        self._used += len(fresh) - len(evicted)
        return Lookup(slots, fresh, rows, entities[rows], evicted, evicted_entities, evicted_last_ms)

    def _check_room(self, entities: NDArray[np.uint64]) -> None:
        if len(entities) > self.capacity:
            distinct = len(np.unique(entities, axis=0))
            if distinct > self.capacity:
                raise ValueError(
                    f"a batch of {len(entities)} events holds {distinct} keys, more than the table's "
                    f"{self.capacity} slots: cut the batch or raise hot_keys"
                )

    def dump(self) -> dict[str, Array]:
        """Return the state as arrays (copies): `entities`, `last_ms`, `evictions`."""
        counters = {"evictions": np.array([self._evictions], np.int64)}
        return self.rows(np.arange(self._used)) | counters

    def rows(self, slots: NDArray[np.int64]) -> dict[str, Array]:
        """Return what is kept of some slots in use: `entities` and `last_ms` (copies)."""
        return {"entities": self._entities[slots], "last_ms": self._seen[slots, 0]}

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Replace the state by a dump; slots stay what they were.

        Raises
        ------
        ValueError
            If the dump is malformed or holds more entities than this table has slots; nothing has changed
            then.
        """
        entities, last_ms, evictions = arrays["entities"], arrays["last_ms"], arrays["evictions"]
        used = len(entities)
        shapes = (entities.shape, last_ms.shape, evictions.shape)
        if shapes != ((used, ENTITY_WORDS), (used,), (1,)) or entities.dtype != np.uint64:
            raise ValueError("not a dump of a key table: its arrays do not fit together")
        if used > self.capacity:
            raise ValueError(
                f"the dump holds {used} keys, the table {self.capacity}: raise hot_keys to at least {used}"
            )
        other = KeyTable(self.capacity)
        if used:
            other.lookup_entities(entities, last_ms.astype(np.int64))
        if len(other) != used:
            raise ValueError("damaged dump of a key table: a key stands in it twice")
        self.__dict__.update(other.__dict__)
        self._evictions = int(evictions[0])


def memory_estimate_bytes(capacity: int, bytes_per_slot: int) -> int:
    """Tell, before the start, what a full table of that capacity and its slabs take."""
    return 8 * _index_size(capacity) + capacity * (8 * ENTITY_WORDS + 16 + bytes_per_slot)


def pack_entities(
    key: NDArray[np.uint64], epoch: NDArray[np.uint16], model: NDArray[np.int32]
) -> NDArray[np.uint64]:
    """Pack columns of an `EventBatch` into entities, uint64 (n, 3)."""
    entities = np.empty((len(key), ENTITY_WORDS), np.uint64)
    entities[:, :2] = key
    entities[:, 2] = (epoch.astype(np.uint64) << np.uint64(32)) | model.astype(np.uint32)
    return entities


def unpack_entity(entity: NDArray[np.uint64]) -> tuple[int, int, int, int]:
    """Split a packed entity (3,) into (key high, key low, epoch, model)."""
    high, low, rest = (int(word) for word in entity)
    return high, low, rest >> 32, ((rest & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000


def _index_size(capacity: int) -> int:
    return 1 << (2 * capacity - 1).bit_length()


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


# The index holds hash >> 32 << 32 | slot + 1, zero where empty. An entry's home is its hash's high half
# modulo the size, so entries can be moved without a look at the entities.


@njit(inline="always")
def _hash(entity: Array) -> Any:
    word = entity[0] + np.uint64(0x9E3779B97F4A7C15) * entity[1] + np.uint64(0xD1B54A32D192ED03) * entity[2]
    return mix(word)


@njit(inline="always")
def _probe(index: Array, entities: Array, entity: Array) -> Any:
    """Return the place in the index where the entity stands, or where it would."""
    mask = np.uint64(len(index) - 1)
    tag = _hash(entity) >> np.uint64(32)
    place = tag & mask
    while index[place] != 0:
        if index[place] >> np.uint64(32) == tag:
            other = entities[(index[place] & np.uint64(0xFFFFFFFF)) - np.uint64(1)]
            if other[0] == entity[0] and other[1] == entity[1] and other[2] == entity[2]:
                break
        place = (place + np.uint64(1)) & mask
    return place


@njit(inline="always")
def _home(index: Array, entity: Array) -> Any:
    """Return the place in the index where an entity stands unless another does."""
    return np.int64((_hash(entity) >> np.uint64(32)) & np.uint64(len(index) - 1))


@njit(inline="always")
def _slot_at(index: Array, place: Any) -> Any:
    """Return the slot in an index entry, `NO_SLOT` if empty."""
    return np.int64(index[place] & np.uint64(0xFFFFFFFF)) - np.int64(1)


@njit(cache=True, nogil=True)
def _find(index: Array, entities: Array, wanted: Array) -> Array:
    slots = np.empty(len(wanted), np.int64)
    for row in range(len(wanted)):
        slots[row] = _slot_at(index, _probe(index, entities, wanted[row]))
    return slots


@njit(cache=True, nogil=True)
def _mark(
    index: Array,
    entities: Array,
    seen: Array,
    batch: int,
    wanted: Array,
    time_ms: Array,
) -> tuple[Array, int]:
    """Find the rows' slots and protect them from eviction; return them and the number of rows without."""
    slots = np.empty(len(wanted), np.int64)
    missing = 0
    last = len(wanted) - 1
    for row in range(len(wanted)):
        # First the place in the index; when that is here, what it points to.
        far, near = wanted[min(row + 2 * ROWS_AHEAD, last)], wanted[min(row + ROWS_AHEAD, last)]
        prefetch(index, _home(index, far))
        ahead = max(_slot_at(index, _home(index, near)), 0)
        prefetch(entities, ahead)
        prefetch(seen, ahead)
        slot = _slot_at(index, _probe(index, entities, wanted[row]))
        slots[row] = slot
        if slot < 0:
            missing += 1
        else:
            seen[slot, 0] = max(seen[slot, 0], time_ms[row])
            seen[slot, 1] = batch
    return slots, missing


@njit(cache=True, nogil=True)
def _allocate(
    index: Array,
    entities: Array,
    seen: Array,
    batch: int,
    used: int,
    evictions: int,
    wanted: Array,
    time_ms: Array,
    slots: Array,
    missing: int,
) -> tuple[Any, ...]:
    """Give slots to the rows that have none, in order; return fresh slots and rows, and who was evicted."""
    fresh, rows = np.empty(missing, np.int64), np.empty(missing, np.int64)
    evicted, evicted_ms = np.empty(missing, np.int64), np.empty(missing, np.int64)
    evicted_entities = np.empty((missing, ENTITY_WORDS), np.uint64)
    fresh_count, evicted_count = 0, 0
    for row in range(len(wanted) if missing else 0):
        if slots[row] >= 0:
            continue
        place = _probe(index, entities, wanted[row])
        slot = _slot_at(index, place)
        if slot < 0:
            if used < len(seen):
                slot = used
                used += 1
            else:
                slot = _victim(seen, batch, evictions + evicted_count)
                evicted[evicted_count] = slot
                evicted_entities[evicted_count] = entities[slot]
                evicted_ms[evicted_count] = seen[slot, 0]
                evicted_count += 1
                _delete(index, _probe(index, entities, entities[slot]))
                place = _probe(index, entities, wanted[row])
            index[place] = (_hash(wanted[row]) >> np.uint64(32) << np.uint64(32)) | np.uint64(slot + 1)
            entities[slot] = wanted[row]
            seen[slot, 0], seen[slot, 1] = time_ms[row], batch
            fresh[fresh_count], rows[fresh_count] = slot, row
            fresh_count += 1
        slots[row] = slot
        seen[slot, 0] = max(seen[slot, 0], time_ms[row])
    return (
        fresh[:fresh_count],
        rows[:fresh_count],
        evicted[:evicted_count],
        evicted_entities[:evicted_count],
        evicted_ms[:evicted_count],
    )


@njit(cache=True, nogil=True)
def _victim(seen: Array, batch: int, draw: int) -> Any:
    """Choose the slot to evict: the oldest of a sample, by event time; among equals the first drawn."""
    capacity = len(seen)
    best = np.int64(-1)
    for i in range(min(_SAMPLE, capacity)):
        drawn = np.int64(mix(np.uint64(draw * _SAMPLE + i + 1)) % np.uint64(capacity))
        slot = drawn if capacity > _SAMPLE else np.int64(i)
        if seen[slot, 1] != batch and (best < 0 or seen[slot, 0] < seen[best, 0]):
            best = slot
    # All of the sample is in this batch: any other slot will do, and there is one (`_check_room`).
    slot = np.int64(draw % capacity)
    while best < 0:
        if seen[slot, 1] != batch:
            best = slot
        slot = (slot + 1) % capacity
    return best


@njit(cache=True, nogil=True)
def _delete(index: Array, hole: Any) -> None:
    """Empty a place of the index and shift back what probed past it (Knuth, TAOCP 3, 6.4, algorithm R)."""
    mask = np.uint64(len(index) - 1)
    place = (hole + np.uint64(1)) & mask
    while index[place] != 0:
        home = (index[place] >> np.uint64(32)) & mask
        if (place - home) & mask >= (place - hole) & mask:
            index[hole] = index[place]
            hole = place
        place = (place + np.uint64(1)) & mask
    index[hole] = 0
