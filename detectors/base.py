"""The signal contract: one number or a few per event, from one idea, in bounded state per key.

Who calls it: `detectors.engine`, with rows grouped by nothing in particular and a slot for each. It may not
block, read a clock, or keep anything outside the slabs it is given. It raises nothing on odd values: a row it
has no opinion on scores NaN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from detectors.alert import Family
    from detectors.batch import EventBatch

Slabs = dict[str, "NDArray[np.generic]"]
"""Per-key state as arrays, first axis the slot; zero means fresh."""


class Signal(Protocol):
    """One detector: per-key state in slabs, scores per event."""

    name: str
    family: Family
    scores: tuple[str, ...]
    """Names of the columns that `score` returns; a higher score is stranger."""
    fields: Mapping[str, tuple[str, tuple[int, ...]]]
    """Per-key state: field name to (dtype, shape without the slot axis). All zero for a fresh key."""

    def score(self, batch: EventBatch, slots: NDArray[np.int64], slabs: Slabs) -> NDArray[np.float32]:
        """Score each row, in order, and update its key's state: float32 (n, len(scores)), NaN for no opinion.

        Scoring a row comes before learning from it. Any cut of the rows into batches gives the same result.
        """
