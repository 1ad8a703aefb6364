"""What stays of a key that lost its slot: a small summary, so that slow-and-low survives eviction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from detectors.keytable import NO_SLOT, KeyTable, memory_estimate_bytes
from detectors.memory import reserve

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from detectors.base import Array

COLD_LIMIT_BYTES = 400
"""Most that a key in a `ColdStore` may take, index included."""

_OVERHEAD_BYTES = memory_estimate_bytes(2**20 + 1, 0) // 2**20
"""Of a key beside its summary, at the least favourable size of the index."""


class ColdStore:
    """Summaries of evicted entities, one row of a numpy dtype each.

    When it is full, a key not seen for long is dropped, chosen as `KeyTable` chooses.

    A recalled summary stays where it is: it is stale while its entity has a slot, and overwritten when the
    entity loses it again.

    Parameters
    ----------
    capacity
        Summaries held at once.
    dtype
        Row of a summary, structured or not.

    Raises
    ------
    ValueError
        If a row makes a key take more than `COLD_LIMIT_BYTES`.
    """

    def __init__(self, capacity: int, dtype: np.dtype[Any]) -> None:
        largest = COLD_LIMIT_BYTES - _OVERHEAD_BYTES
        if dtype.itemsize > largest:
            raise ValueError(f"a cold summary of {dtype.itemsize} bytes is above the limit of {largest}")
        self._table = KeyTable(capacity)
        self._rows = reserve((capacity,), dtype)

    def __len__(self) -> int:
        """Count the summaries held."""
        return len(self._table)

    @property
    def dropped(self) -> int:
        """Summaries lost for lack of room."""
        return self._table.evictions

    def put(self, entities: NDArray[np.uint64], last_ms: NDArray[np.int64], rows: Array) -> NDArray[np.int64]:
        """Keep summaries (n,) of packed entities (n, 3), last seen at those times; return their places."""
        places = np.empty(len(entities), np.int64)
        for start in range(0, len(entities), self._table.capacity):
            cut = slice(start, start + self._table.capacity)
            slots = places[cut] = self._table.lookup_entities(entities[cut], last_ms[cut]).slots
            self._rows[slots] = rows[cut]
        return places

    def recall(self, entities: NDArray[np.uint64]) -> tuple[Array, NDArray[np.bool_]]:
        """Return the summaries of packed entities (n, 3), and which are known; unknown rows are zero."""
        slots = self._table.find(entities)
        known = slots != NO_SLOT
        rows = np.zeros(len(slots), self._rows.dtype)
        rows[known] = self._rows[slots[known]]
        return rows, known

    def dump(self) -> dict[str, Array]:
        """Return the state as arrays of plain dtypes: the table's, and `rows`, uint8 (n, itemsize)."""
        return self._table.dump() | self.export(np.arange(len(self)))

    def export(self, places: NDArray[np.int64]) -> dict[str, Array]:
        """Return what is kept at some places: `entities`, `last_ms` and `rows`."""
        rows = self._rows[places]
        return self._table.rows(places) | {
            "rows": rows.view(np.uint8).reshape(len(rows), rows.dtype.itemsize)
        }

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Replace the state by a dump.

        Raises
        ------
        ValueError
            If the dump is malformed, too large, or of another row layout; nothing has changed then.
        """
        rows = arrays["rows"]
        if rows.dtype != np.uint8 or rows.shape != (len(arrays["entities"]), self._rows.dtype.itemsize):
            raise ValueError("the dump's cold summaries have another layout than this version's")
        self._table.restore(arrays)
        self._rows[: len(rows)] = np.ascontiguousarray(rows).reshape(-1).view(self._rows.dtype)
