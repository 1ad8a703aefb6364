"""Batches from several readers put together in the order of their messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from detectors.batch import COLUMNS, EventBatch
from streams.formats.names import renumber

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from streams.formats.base import Rejection

_NAMED = {"model": "models", "tenant": "tenants", "plan": "plans"}


class Decoded(NamedTuple):
    """What came of some messages.

    Attributes
    ----------
    batch : EventBatch or None
        None if no event is good.
    rows : int64 (events,)
        By event of the batch: the row in the block of the message that it came in.
    rejections : list of (int, Rejection)
        With the row of the message, in order.
    """

    batch: EventBatch | None
    rows: NDArray[np.int64]
    rejections: list[tuple[int, Rejection]]


def join_decoded(parts: Sequence[Decoded], rejections: list[tuple[int, Rejection]]) -> Decoded:
    """Put together what several readers made of different messages of a block, in the messages' order."""
    rejections = sorted(
        rejections + [found for part in parts for found in part.rejections], key=lambda found: found[0]
    )
    good = [part for part in parts if part.batch is not None]
    if not good:
        return Decoded(None, np.empty(0, np.int64), rejections)
    rows = np.concatenate([part.rows for part in good])
    batches = [part.batch for part in good if part.batch is not None]
    order = rows if len(good) > 1 else None
    return Decoded(join_batches(batches, order), np.sort(rows), rejections)


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
