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

from sinks.serving.event import encode_event
from streams.formats.base import EARLIEST_MS, MAX_AHEAD_MS, MAX_MESSAGE_BYTES, Limits, Rejection
from streams.formats.json import decode_json
from streams.recordblock import RecordBlock, pack_messages

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    return decode_json(block, Limits(now_ms=now_ms, max_ahead_ms=max_ahead_ms, max_bytes=max_bytes))
