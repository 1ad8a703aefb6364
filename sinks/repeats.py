"""Dropping records that stand on a topic twice.

Every alert, decision and command has an id that depends only on the events behind it (`streams.outputs`), in
the header `id` and in the record. A worker that was stalled past its session, or killed between writing an
output and hearing that it is stored, may write it once more. Whoever acts on records drops the second one:

>>> repeats = Repeats()
>>> [id for id in ("a", "b", "a") if repeats.is_new(id)]
['a', 'b']

Enforcers need no more than their commands' sequence numbers (`sinks.serving.commands`), and readers that keep
records by id have it already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable

DEFAULT_CAPACITY = 100_000
"""A repeat stands at most as far behind as a worker writes between two snapshots and a lost session."""


class Repeats:
    """Remembers the newest ids. Pure, not thread-safe.

    Parameters
    ----------
    capacity : int
        Ids remembered; about 100 bytes each.
    """

    def __init__(self, capacity: int = DEFAULT_CAPACITY) -> None:
        self._capacity = capacity
        self._seen: dict[Hashable, None] = {}

    def is_new(self, record_id: Hashable) -> bool:
        """Tell whether this id was not among the newest ones, and remember it."""
        if record_id in self._seen:
            return False
        self._seen[record_id] = None
        if len(self._seen) > self._capacity:
            del self._seen[next(iter(self._seen))]
        return True
