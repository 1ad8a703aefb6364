"""The rows of one model in a batch, as `detectors.engine` goes through them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

from detectors.batch import SYNTHETIC_EPOCH

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
        The engine's, with the rows of other models: a copy would take as long as a signal.
    rows, slots, number, time_ms : int64 (n,)
        Where they stand in the batch, the slots of their keys, each key's event number, their times.
    """

    model: int
    batch: EventBatch
    rows: NDArray[np.int64]
    slots: NDArray[np.int64]
    number: NDArray[np.int64]
    time_ms: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        model: int,
        batch: EventBatch,
        rows: NDArray[np.int64],
        slots: NDArray[np.int64],
        number: NDArray[np.int64],
    ) -> Self:
        """Choose rows of a batch; `slots` and `number` are of all its rows."""
        return cls(model, batch, rows, slots[rows], number[rows], batch.time_ms[rows])

    def cut(self, cut: slice | NDArray[np.int64]) -> Self:
        """Return some of them."""
        columns = self.rows[cut], self.slots[cut], self.number[cut], self.time_ms[cut]
        return type(self)(self.model, self.batch, *columns)

    def of_customers(self) -> Self:
        """Return all but the canary's."""
        is_real = self.batch.key_epoch[self.rows] != SYNTHETIC_EPOCH
        return self if is_real.all() else self.cut(is_real.nonzero()[0])
