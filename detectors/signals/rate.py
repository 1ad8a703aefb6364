"""How fast a key asks.

Queries in the last hour, exponentially weighted (time constant one hour): 12 bytes and a decay per event.
Late events count as if they came now; time never runs backwards within a key.

Blind to: anything slow. Batch jobs and load tests are fast and honest, so rate is never evidence by itself
for more than a notice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from detectors.kernelcache import njit
from detectors.prefetch import prefetch, slot_ahead

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detectors.alert import Family
    from detectors.base import Array, Events, Fields, Slabs
    from detectors.reference import EventReference

TIME_CONSTANT_MS = 3_600_000.0


class Rate:
    """Weighted count of a key's queries over the last hour.

    Scores
    ------
    log_rate : base-10 logarithm of that count, 0 for the first query.
    """

    name: ClassVar[str] = "rate"
    family: ClassVar[Family] = "rate"
    counts_all: ClassVar[bool] = True
    scores: ClassVar[tuple[str, ...]] = ("log_rate",)
    fields: ClassVar[Fields] = {"rate_count": ("f4", ()), "rate_time_ms": ("i8", ())}

    def __init__(self, reference: EventReference) -> None:
        """Take the reference as every signal does; a rate needs none of it."""

    @property
    def kernel(self) -> Any:
        """Score rows (`score_rates`)."""
        return score_rates

    def arguments(self, events: Events, slots: NDArray[np.int64], slabs: Slabs) -> tuple[Any, ...]:
        """Return the times and the slabs of the keys."""
        return events.rows, events.time_ms, slots, slabs["rate_count"], slabs["rate_time_ms"]


@njit(cache=True, nogil=True)
def score_rates(out: Array, rows: Array, time_ms: Array, slots: Array, count: Array, last_ms: Array) -> None:
    """Score each row."""
    for i in range(len(slots)):
        prefetch(count, slot_ahead(slots, i))
        slot, now_ms = slots[i], time_ms[rows[i]]
        elapsed = max(now_ms - last_ms[slot], 0) if count[slot] > 0 else 0
        count[slot] = count[slot] * np.exp(-elapsed / TIME_CONSTANT_MS) + 1.0
        last_ms[slot] = max(now_ms, last_ms[slot])
        out[i, 0] = np.log10(count[slot])
