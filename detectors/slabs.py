"""Slabs: the per-key state of all signals, one row a slot, with the fields of a row side by side.

A row is one record, so what an event needs of its key shares cache lines; a slab is one field of all rows.
The memory is reserved for the whole capacity and taken page by page as slots come into use, so that nothing
is ever copied to grow, and an engine takes no more than its keys ask for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from detectors.memory import reserve
from detectors.pages import ENTRY_BYTES, LENGTHS, Pages

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from detectors.base import Array, Fields

PAGE = "ring_page"
"""Field that tells which page a slot has; it means nothing outside this process."""
PAGE_COUNT = "ring_count"
"""Field that counts the entries a slot remembered so far."""


class Slabs(dict[str, "NDArray[Any]"]):
    """Fields by name, first axis the slot; zero means fresh.

    Attributes
    ----------
    rows : structured (capacity,)
        The records that the slabs are fields of.
    pages : Pages
        What grows with a key: the near-duplicate memory.
    """

    def __init__(self, fields: Fields, capacity: int) -> None:
        self.rows = reserve((capacity,), row_dtype(fields))
        self._bytes = self.rows.view(np.uint8).reshape(capacity, -1)
        self.pages = Pages(capacity if PAGE in fields else 0)
        super().__init__({name: self.rows[name] for name in fields})

    def clear(self, slots: NDArray[np.int64]) -> None:  # type: ignore[override] # a slab is never taken out
        """Zero the rows of these slots, and take their pages back."""
        if PAGE in self:
            self.pages.release(self[PAGE][slots], self[PAGE_COUNT][slots])
        self._bytes[slots] = 0

    def export(self, slots: NDArray[np.int64]) -> dict[str, Array]:
        """Return everything kept in these slots: `row` uint8 (n, bytes), `page` uint8 (all entries)."""
        row = self._bytes[slots]
        entries = np.empty(0, np.uint8)
        if PAGE in self:
            record = row.reshape(-1).view(self.rows.dtype)
            entries = self.pages.export(record[PAGE], record[PAGE_COUNT])
            record[PAGE] = 0
        return {"row": row, "page": entries}

    def fill(self, slots: NDArray[np.int64], arrays: Mapping[str, Array]) -> None:
        """Put into these slots, which are fresh, what was exported.

        Raises
        ------
        ValueError
            If it is of another layout.
        """
        row = arrays["row"]
        if row.dtype != np.uint8 or row.shape != (len(slots), self.rows.dtype.itemsize):
            raise ValueError("the dump's rows have another layout than this version's")
        self._bytes[slots] = row
        if PAGE in self:
            self[PAGE][slots] = self.pages.fill(self[PAGE_COUNT][slots], arrays["page"])


def slot_bytes(fields: Fields) -> int:
    """Tell what one slot of the slabs of these fields takes at most, its largest page included."""
    return row_dtype(fields).itemsize + (LENGTHS[-1] * ENTRY_BYTES if PAGE in fields else 0)


def row_dtype(fields: Fields) -> np.dtype[Any]:
    """Return the record of these fields, the widest first so that none is split or padded."""
    ordered = sorted(fields, key=lambda name: -np.dtype(fields[name][0]).itemsize)
    return np.dtype([(name, *fields[name]) for name in ordered], align=True)


def make_slabs(fields: Fields, capacity: int) -> Slabs:
    """Make zeroed slabs with that many slots."""
    return Slabs(fields, capacity)
