"""Messages of the events topic to columns, whatever format they are in.

Who calls it: the pipeline, with the messages of one topic in order; fastest with a `RecordBlock`. Nothing
here raises on what a message holds: what cannot be taken is returned as a `Rejection`, and the good events
around it are kept in order.

A message's header `mw-format` names its format; without one it is JSON.

Time: an event may be late, even by years, and time may run backwards; both are ordinary after an outage. It
may not lie more than `max_ahead_ms` ahead of the clock (one such event would make every later one look late),
nor before the year 2000 (seconds sent for milliseconds).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sinks.serving.event import encode_event
from sinks.serving.formats import FORMAT_HEADER
from streams.formats.base import EARLIEST_MS, MAX_AHEAD_MS, MAX_MESSAGE_BYTES, Fault, Limits, Rejection
from streams.formats.batches import Decoded, join_decoded
from streams.formats.binary import refuse
from streams.formats.columns import decode_columns
from streams.formats.headers import (
    IS_COLUMNS,
    IS_DAMAGED,
    IS_JSON,
    IS_RECORD,
    IS_UNKNOWN,
    KNOWN,
    read_formats,
)
from streams.formats.json import decode_json
from streams.formats.record import decode_records
from streams.recordblock import OFFSET, RecordBlock, pack_messages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from detectors.batch import EventBatch
    from streams.bus.base import Message

__all__ = [
    "EARLIEST_MS",
    "MAX_AHEAD_MS",
    "MAX_MESSAGE_BYTES",
    "Rejection",
    "decode_events",
    "encode_event",
]


def decode_events(
    messages: Sequence[Message],
    topic: str,
    *,
    now_ms: int | None = None,
    max_ahead_ms: float = MAX_AHEAD_MS,
    max_bytes: int = MAX_MESSAGE_BYTES,
) -> tuple[EventBatch | None, list[Rejection]]:
    """Decode messages to a batch, in the order given, and the rejected events, in theirs.

    Parameters
    ----------
    messages : sequence of Message
        All of one topic.
    topic : str
        Where they came from; part of every alert's id.
    now_ms : int, optional
        The clock, for live traffic; None for history, where no event is ahead.
    max_ahead_ms : float
        How far an event's time may lie ahead of the clock.
    max_bytes : int
        The largest message that is looked at.

    Returns
    -------
    batch : EventBatch or None
        None if no event was good.
    rejections : list of Rejection
    """
    if not messages:
        return None, []
    block = messages if isinstance(messages, RecordBlock) else pack_messages(messages, topic)
    limits = Limits(now_ms=now_ms, max_ahead_ms=max_ahead_ms, max_bytes=max_bytes)
    formats = read_formats(block)
    present = np.unique(formats).tolist()
    if len(present) == 1:
        decoded = _READERS[present[0]](block, limits)
    else:
        parts = [_decode_some(block, np.flatnonzero(formats == one), one, limits) for one in present]
        decoded = join_decoded(parts, [])
    return decoded.batch, [rejection for _, rejection in decoded.rejections]


def _decode_some(block: RecordBlock, rows: NDArray[np.intp], reader: int, limits: Limits) -> Decoded:
    """Decode the messages of one format."""
    found = _READERS[reader](block.pick(rows), limits)
    rejections = [(int(rows[at]), rejection) for at, rejection in found.rejections]
    return Decoded(found.batch, rows[found.rows], rejections)


def _refuse_unknown(block: RecordBlock, _limits: Limits) -> Decoded:
    known = ", ".join(name.decode() for name in KNOWN)
    fault: Fault = ("unknown_format", f"header {FORMAT_HEADER}: expected one of {known}, or no such header")
    return Decoded(None, np.empty(0, np.int64), [refuse(block, row, fault) for row in range(len(block))])


def _refuse_damaged(block: RecordBlock, _limits: Limits) -> Decoded:
    offsets = block.spans[OFFSET].tolist()
    refused = [
        refuse(block, row, ("damaged_batch", block.faults[offset])) for row, offset in enumerate(offsets)
    ]
    return Decoded(None, np.empty(0, np.int64), refused)


_READERS: dict[int, Callable[[RecordBlock, Limits], Decoded]] = {
    IS_JSON: decode_json,
    IS_RECORD: decode_records,
    IS_COLUMNS: decode_columns,
    IS_UNKNOWN: _refuse_unknown,
    IS_DAMAGED: _refuse_damaged,
}
