"""The signal contract: one number or a few per event, from one idea, in bounded state per key.

Who calls it: `detectors.engine`, with rows grouped by nothing in particular and a slot for each. It may not
block, read a clock, or keep anything outside the slabs it is given. It raises nothing on odd values: a row it
has no opinion on scores NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from numpy.typing import NDArray

if TYPE_CHECKING:
    import numpy as np

    from detectors.alert import Family
    from detectors.batch import EventBatch
    from detectors.reference import EventReference
    from detectors.slabs import Slabs as Slabs  # noqa: PLC0414 - for the signals to import

Array = NDArray[Any]
"""An array whose dtype and shape the docstring says; kernels use it."""

Fields = Mapping[str, tuple[str, tuple[int, ...]]]
"""Per-key state of a signal: field name to (dtype, shape without the slot axis). All zero for a fresh key."""


class Signal(Protocol):
    """One detector: per-key state in slabs, scores per event."""

    name: ClassVar[str]
    family: ClassVar[Family]
    scores: ClassVar[tuple[str, ...]]
    """Names of the columns that `score` returns; a higher score is stranger."""
    fields: ClassVar[Fields]

    def __init__(self, reference: EventReference) -> None:
        """Compare with this reference."""

    def score(self, batch: EventBatch, slots: NDArray[np.int64], slabs: Slabs) -> NDArray[np.float32]:
        """Score each row, in order, and update its key's state: float32 (n, len(scores)), NaN for no opinion.

        Scoring a row comes before learning from it. Any cut of the rows into batches gives the same result.
        """
