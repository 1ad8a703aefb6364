"""Batches from several readers put together in the order of their messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from detectors.batch import COLUMNS, EventBatch
from streams.formats.names import renumber

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_NAMED = {"model": "models", "tenant": "tenants", "plan": "plans"}


def join_batches(batches: Sequence[EventBatch], order: NDArray[Any] | None = None) -> EventBatch:
    """Join batches of one topic, at least one, whatever names they have.

    Parameters
    ----------
    order : array of numbers, optional
        One per row of all batches together: rows are put in rising order of it.
    """
    if len(batches) == 1 and order is None:
        return batches[0]
    joined: dict[str, Any] = {c: np.concatenate([getattr(b, c) for b in batches]) for c in COLUMNS}
    if order is not None:
        rows = np.argsort(order, kind="stable")
        joined = {column: values[rows] for column, values in joined.items()}
    for column, table in _NAMED.items():
        shift, shifted = 0, []
        for batch in batches:
            index = getattr(batch, column)
            shifted.append(np.where(index >= 0, index + shift, index).astype(np.int32))
            shift += len(getattr(batch, table))
        index = np.concatenate(shifted)
        names = tuple(name for batch in batches for name in getattr(batch, table))
        joined[column], joined[table] = renumber(index if order is None else index[rows], names)
    return EventBatch(**joined, topic=batches[0].topic)
