"""The rows of one model in a batch, as `detectors.engine` goes through them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from detectors.batch import EventBatch


class ModelRows(NamedTuple):
    """Rows of one model, n.

    Attributes
    ----------
    model : int
        Its number.
    batch : EventBatch
        These rows.
    rows, slots, number : int64 (n,)
        Where they stand in the engine's batch, the slots of their keys, and each key's event number.
    """

    model: int
    batch: EventBatch
    rows: NDArray[np.int64]
    slots: NDArray[np.int64]
    number: NDArray[np.int64]

    def cut(self, cut: slice) -> Self:
        """Return some of them."""
        columns = self.rows[cut], self.slots[cut], self.number[cut]
        return type(self)(self.model, self.batch.take(cut), *columns)
