"""The signal contract: one number or a few per event, from one idea, in bounded state per key.

A signal is a compiled kernel and what it takes. Who calls it: `detectors.track`, all signals in one call,
with rows grouped by nothing in particular and a slot for each; `score` calls one alone. It may not block,
read a clock, or keep anything outside the slabs it is given. It raises nothing on odd values: a row it has
no opinion on scores NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from detectors.alert import Family
    from detectors.batch import EventBatch
    from detectors.reference import EventReference
    from detectors.slabs import Slabs as Slabs  # noqa: PLC0414 - for the signals to import

Array = NDArray[Any]
"""An array whose dtype and shape the docstring says; kernels use it."""

Fields = Mapping[str, tuple[str, tuple[int, ...]]]
"""Per-key state of a signal: field name to (dtype, shape without the slot axis). All zero for a fresh key."""


class Events(NamedTuple):
    """The columns of a batch that signals read, and which of its rows.

    The columns are the batch's own: a copy of the rows that are scored would take as long as scoring many.
    """

    rows: NDArray[np.int64]
    """(n,), ascending: those that are scored."""
    sketch: NDArray[np.float32]
    """(all rows, 32), contiguous."""
    words: NDArray[np.uint32]
    """The same as bits (`detectors.words`)."""
    embedding: NDArray[np.float32]
    """Of the same shape, contiguous."""
    predicted: NDArray[np.int32]
    margin: NDArray[np.float32]
    time_ms: NDArray[np.int64]
    prefix_hash: NDArray[np.uint64]
    max_tokens: NDArray[np.int32]
    logit_bias_count: NDArray[np.int32]

    @classmethod
    def of(cls, batch: EventBatch, rows: NDArray[np.int64]) -> Self:
        """Choose rows of a batch."""
        sketch = np.ascontiguousarray(batch.input_sketch)
        return cls(
            rows,
            sketch,
            sketch.view(np.uint32),
            np.ascontiguousarray(batch.embedding_sketch),
            batch.predicted_class,
            batch.margin,
            batch.time_ms,
            batch.prefix_hash,
            batch.max_tokens,
            batch.logit_bias_count,
        )


class Signal(Protocol):
    """One detector: per-key state in slabs, scores per event."""

    name: ClassVar[str]
    family: ClassVar[Family]
    scores: ClassVar[tuple[str, ...]]
    """Names of the columns that are scored; a higher score is stranger."""
    fields: ClassVar[Fields]
    counts_all: ClassVar[bool]
    """Whether it follows the queries too that are not looked at (`detectors.attention`): it is cheap, and
    would be wrong otherwise."""

    def __init__(self, reference: EventReference) -> None:
        """Compare with this reference."""

    @property
    def kernel(self) -> Any:
        """Compiled, `kernel(out, *arguments)`: scores the rows, in order, and updates their keys' state.

        `out`, float32 (n, len(scores)), is full of NaN and stays so where there is no opinion. Scoring a row
        comes before learning from it. Any cut of the rows into batches gives the same result.
        """

    def arguments(self, events: Events, slots: NDArray[np.int64], slabs: Slabs) -> tuple[Any, ...]:
        """Return what the kernel takes, for rows and the slots of their keys."""


def score(signal: Signal, batch: EventBatch, slots: NDArray[np.int64], slabs: Slabs) -> NDArray[np.float32]:
    """Score each row by one signal, in order, and update its key's state: float32 (n, len(scores))."""
    out = np.full((len(batch), len(signal.scores)), np.nan, np.float32)
    signal.kernel(out, *signal.arguments(Events.of(batch, np.arange(len(batch))), slots, slabs))
    return out
