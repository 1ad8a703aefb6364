"""Small mergeable summaries of keys: how much each asked, and the mean of what it asked, in two parts.

The first part (`linked`) is what keys are linked by, the second (`fresh`) came after the link and is what
the link is tested on. A bounded number of keys is summarised; when the table is full, a new key takes the
place of one that has been idle for a day, or is not summarised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from detectors.batch import SKETCH_SIZE
from detectors.kernelcache import njit
from detectors.prefetch import prefetch, slot_ahead
from detectors.slabs import row_dtype
from detectors.words import is_finite

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from detectors.base import Array, Fields

SUMMARY_FIELDS: Fields = {
    "slot": ("i4", ()),
    "count": ("u4", ()),
    "mark": ("u4", ()),
    "owner": ("i4", ()),
    "last_ms": ("i8", ()),
    "group": ("i4", ()),
    "told": ("u1", ()),
    "linked_mass": ("f4", ()),
    "fresh_mass": ("f4", ()),
    "linked": ("f4", (SKETCH_SIZE,)),
    "fresh": ("f4", (SKETCH_SIZE,)),
}
"""A key's summary: its slot in the engine, its events so far and when it was linked, its declared owner, when
it was last seen, its group (0: none), the level of the campaign it was told of, and sums of sketches."""

_ROW = row_dtype(SUMMARY_FIELDS)
"""Side by side, as in slabs: an event needs most of its key's."""
SUMMARY_BYTES = _ROW.itemsize

IDLE_MS = 86_400_000
"""A key not seen for so long gives its summary up to a new one when the table is full."""
_LOOK_AT = 16
"""Summaries that a new key looks at for an idle one."""
_FIRST_ROWS = 64


class Summaries:
    """The summaries of one model's keys, in rows 0 .. len - 1.

    Parameters
    ----------
    capacity
        Keys summarised at once; `SUMMARY_BYTES` each.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = 0
        self._hand = 0
        self._keep(np.zeros(0, _ROW))
        self._row_of = np.full(0, -1, np.int32)

    def _keep(self, rows: NDArray[Any]) -> None:
        self._rows = rows
        self._columns = {name: rows[name] for name in SUMMARY_FIELDS}

    def __len__(self) -> int:
        """Count the summaries."""
        return self.used

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return a column of the summaries in use; writable."""
        return self._columns[name][: self.used]

    @property
    def nbytes(self) -> int:
        """Bytes of everything kept."""
        return self._rows.nbytes + self._row_of.nbytes

    def add(
        self,
        slots: NDArray[np.int64],
        time_ms: NDArray[np.int64],
        owner: NDArray[np.int32],
        sketch: NDArray[np.float32],
        places: NDArray[np.int64],
    ) -> None:
        """Add events, in order, to their keys' summaries; one without a sketch counts without content.

        The sketches of the n events stand in the `places` (n,) among others.
        """
        self._make_room(slots)
        sketch = np.ascontiguousarray(sketch)
        self.used, self._hand = _add(
            slots, time_ms, owner, places, sketch, sketch.view(np.uint32), self._row_of, self.used,
            self._hand, self.capacity, *self._columns.values(),
        )  # fmt: skip

    def forget(self, slots: NDArray[np.int64]) -> None:
        """Tell that these slots belong to other keys from now on; their summaries go idle."""
        slots = slots[slots < len(self._row_of)]
        rows = self._row_of[slots]
        rows = rows[rows >= 0]
        self._row_of[slots] = -1
        for name in ("last_ms", "count", "group", "linked_mass", "fresh_mass"):
            self._columns[name][rows] = 0
        self._columns["slot"][rows] = -1

    def dump(self) -> tuple[dict[str, NDArray[Any]], int]:
        """Return the columns, and where the search for idle rows goes on."""
        return {name: self[name].copy() for name in SUMMARY_FIELDS}, self._hand

    def restore(self, columns: Mapping[str, NDArray[Any]], hand: int) -> None:
        """Replace everything by a dump.

        Raises
        ------
        ValueError, KeyError
            If the columns do not fit.
        """
        used = len(columns["slot"])
        if used > self.capacity:
            raise ValueError(f"{used} campaign summaries do not fit into {self.capacity}")
        self.used, self._hand = 0, hand
        slots = columns["slot"].astype(np.int64)
        self._row_of = np.full(0, -1, np.int32)
        self._make_room(slots[slots >= 0], used)
        for name, column in self._columns.items():
            column[:used] = columns[name]
        self.used = used
        held = slots >= 0
        self._row_of[slots[held]] = np.flatnonzero(held)

    def _make_room(self, slots: NDArray[np.int64], least: int = 0) -> None:
        """Grow by doubling: the map from slots to rows, and the rows up to the capacity."""
        highest = int(slots.max(initial=-1)) + 1
        if highest > len(self._row_of):
            grown = np.full(max(highest, 2 * len(self._row_of)), -1, np.int32)
            grown[: len(self._row_of)] = self._row_of
            self._row_of = grown
        rows = len(self._rows)
        fresh = 0
        if rows < min(self.used + len(slots), self.capacity):
            unknown = slots[self._row_of[slots] < 0]
            fresh = len(unknown)
            if rows < min(self.used + fresh, self.capacity):  # counting them takes much longer
                fresh = len(np.unique(unknown))
        wanted = min(max(self.used + fresh, least), self.capacity)
        if wanted > rows:
            size = min(max(wanted, 2 * rows, _FIRST_ROWS), self.capacity)
            bigger = np.zeros(size, _ROW)
            bigger[: self.used] = self._rows[: self.used]
            self._keep(bigger)


@njit(cache=True, nogil=True)
def _add(
    slots: Array, time_ms: Array, owners: Array, places: Array, sketch: Array, words: Array,
    row_of: Array, used: int, hand: int, capacity: int,
    slot: Array, count: Array, mark: Array, owner: Array, last_ms: Array, group: Array, told: Array,
    linked_mass: Array, fresh_mass: Array, linked: Array, fresh: Array,
) -> tuple[int, int]:  # fmt: skip
    second_half = linked[:, SKETCH_SIZE // 2 :]
    for i in range(len(slots)):
        ahead = max(row_of[slot_ahead(slots, i)], 0)
        prefetch(last_ms, ahead)
        prefetch(second_half, ahead)
        prefetch(fresh, ahead)
        row = int(row_of[slots[i]])
        if row < 0:
            row, hand = _place(time_ms[i], used, hand, capacity, last_ms)
            if row < 0:
                continue
            if row == used:
                used += 1
            elif slot[row] >= 0:
                row_of[slot[row]] = -1
            row_of[slots[i]] = row
            slot[row], last_ms[row] = slots[i], time_ms[i]
            count[row], mark[row], group[row], told[row] = 0, 0, 0, 0
            linked_mass[row], fresh_mass[row] = 0, 0
            linked[row, :], fresh[row, :] = 0, 0
        count[row] += 1
        owner[row] = owners[i]
        last_ms[row] = max(last_ms[row], time_ms[i])
        if group[row] > 0:
            _add_sketch(sketch[places[i]], words[places[i]], row, fresh_mass, fresh)
        else:
            _add_sketch(sketch[places[i]], words[places[i]], row, linked_mass, linked)
    return used, hand


@njit(cache=True, nogil=True, inline="always")
def _place(time_ms: int, used: int, hand: int, capacity: int, last_ms: Array) -> tuple[int, int]:
    """Find a row for a new key: the next unused one, else one of the next few that is idle, else -1."""
    if used < capacity:
        return used, hand
    for _ in range(_LOOK_AT):
        hand = (hand + 1) % capacity
        if time_ms - last_ms[hand] > IDLE_MS:
            return hand, hand
    return -1, hand


@njit(cache=True, nogil=True, inline="always")
def _add_sketch(sketch: Array, words: Array, row: int, mass: Array, total: Array) -> None:
    if not is_finite(words):
        return
    mass[row] += np.float32(1.0)
    for j in range(SKETCH_SIZE):
        total[row, j] += sketch[j]
