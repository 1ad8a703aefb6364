"""Slots written out in parts: ranges of slots now and then, and between those what changed since.

Every write has a number. A range of slots is written whole when its turn comes, every `TURNS` writes, or when
more than half of it changed; the other slots that changed go into the changes of this write. Changes take the
names of those of `TURNS` writes ago, whose slots have all been written again since. So a write costs what
changed and a tenth of the rest, and the newest part of every name holds the newest of every slot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from detectors.memory import reserve
from detectors.parts import PART_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from detectors.base import Array

TURNS = 10

_SINCE_WRITE, _SINCE_RANGE = np.uint8(1), np.uint8(2)
CHANGED = _SINCE_WRITE | _SINCE_RANGE
"""What to put into `SlotParts.changed` where a slot changes."""


class Store(Protocol):
    """What keeps something in slots 0 .. len - 1."""

    def __len__(self) -> int:
        """Count the slots in use."""

    def export(self, slots: NDArray[np.int64]) -> dict[str, Array]:
        """Return what is kept in these slots, as arrays with a first axis for the slots or their content."""


class SlotParts:
    """The parts of one store.

    Parameters
    ----------
    kind
        What the names of the parts begin with.
    capacity
        Slots at most.
    slot_bytes
        What a slot holds at most.

    Attributes
    ----------
    changed : uint8 (capacity,)
        `CHANGED` where a slot was written to.
    """

    def __init__(self, kind: str, capacity: int, slot_bytes: int) -> None:
        self._kind = kind
        self._changes = f"{kind}-changes/"
        self._length = max(PART_BYTES // slot_bytes, 1)
        self.changed = reserve((capacity,), np.uint8)

    def cut(self, store: Store, number: int, *, changed_only: bool) -> Iterator[tuple[str, dict[str, Array]]]:
        """Yield this write's parts by name: all slots, or those that changed since the last one."""
        used = len(store)
        ranges = self._due(used, number) if changed_only else np.arange(-(-used // self._length))
        for place in ranges.tolist():
            slots = np.arange(place * self._length, min((place + 1) * self._length, used))
            yield f"{self._kind}/{place}", _part(store, slots, number)
        if changed_only:
            changed = np.flatnonzero(self.changed[:used] & _SINCE_WRITE)
            changed = changed[~np.isin(changed // self._length, ranges)]
            for piece, start in enumerate(range(0, len(changed), self._length)):
                name = f"{self.replaced(number)}{piece}"
                yield name, _part(store, changed[start : start + self._length], number)

    def replaced(self, number: int) -> str:
        """Return what the names of parts begin with that this write replaces, even if it has none of them."""
        return f"{self._changes}{number % TURNS}/"

    def clean(self, used: int, number: int, *, changed_only: bool) -> None:
        """Tell that everything `cut` gave was written."""
        changed = self.changed[:used]
        if changed_only:
            for place in self._due(used, number).tolist():
                changed[place * self._length : (place + 1) * self._length] = 0
            changed &= _SINCE_RANGE
        else:
            changed[:] = 0

    def _due(self, used: int, number: int) -> NDArray[np.int64]:
        """Return the ranges to write whole: those whose turn it is, if anything changed, and busy ones."""
        changed = self.changed[:used]
        starts = np.arange(0, used, self._length)
        places = np.arange(len(starts))
        if not used:
            return places
        since_range = np.bitwise_or.reduceat(changed, starts) & _SINCE_RANGE
        busy = 2 * np.add.reduceat(changed & _SINCE_WRITE, starts, dtype=np.int64) > self._length
        due: NDArray[np.int64] = places[(since_range > 0) & (busy | (places % TURNS == number % TURNS))]
        return due

    def join(self, parts: Mapping[str, Mapping[str, Array]]) -> list[Mapping[str, Array]]:
        """Return the parts of this kind, oldest first: of a slot in several of them the last one counts.

        They count as written.
        """
        mine = {
            name: part for name, part in parts.items() if name.startswith((f"{self._kind}/", self._changes))
        }
        for name, part in mine.items():
            if name.startswith(self._changes):
                self.changed[part["slots"]] = _SINCE_RANGE
        return sorted(mine.values(), key=lambda part: int(part["number"][0]))


def assemble(parts: Sequence[Mapping[str, Array]], name: str) -> Array:
    """Return an array of all slots from joined parts."""
    used = 1 + max(int(part["slots"].max(initial=0)) for part in parts)
    out = np.zeros((used, *parts[0][name].shape[1:]), parts[0][name].dtype)
    for part in parts:
        out[part["slots"]] = part[name]
    return out


def _part(store: Store, slots: NDArray[np.int64], number: int) -> dict[str, Array]:
    extra: dict[str, Array] = {"number": np.array([number], np.int64), "slots": slots.astype(np.uint32)}
    return store.export(slots) | extra
