"""What `detectors.rivertier` keeps of a promoted key: the ranks of its events since it last changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from detectors.base import Array

MEMORY = 256
"""An adaptive window is rebuilt from the last 256 ranks whenever it has seen 512."""


@dataclass(slots=True)
class Place:
    """A promoted key: its level, and the ranks of its last events."""

    level: float
    ranks: list[float] = field(default_factory=list)
    window: Any = None
    """ADWIN over the ranks; None until a mean is asked for."""
    seen: int = 0
    """Ranks that the window was given."""

    def add(self, ranks: list[float]) -> None:
        """Take in the ranks of the key's next events."""
        self.ranks += ranks
        while len(self.ranks) > 2 * MEMORY:
            del self.ranks[:MEMORY]
            self.window = None

    def mean(self) -> float:
        """Return the mean rank since the key last changed."""
        if self.window is None:
            self.window, self.seen = make_window(), 0
        for rank in self.ranks[self.seen :]:
            self.window.update(rank)
        self.seen = len(self.ranks)
        return float(self.window.estimation)


def rebuild(state: Array) -> tuple[Place, int, int]:
    """Make a place from its dump, with its events and latest time; the window follows when it is asked for.

    Raises
    ------
    ValueError
        If the dump is malformed.
    """
    if state.ndim != 1 or not 3 <= len(state) <= 3 + 2 * MEMORY or not np.isfinite(state).all():
        raise ValueError("damaged dump of the River tier: a promoted key's ranks are not a bounded row")
    level, time_ms, count, *ranks = state.tolist()
    return Place(level, ranks), int(count), int(time_ms)


def make_window() -> Any:
    """Return an empty adaptive window of River's."""
    from river.drift import ADWIN  # noqa: PLC0415 - River takes one to two seconds to load

    return ADWIN()
