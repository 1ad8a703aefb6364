"""What the readers of all formats share: limits, and the form of a refusal."""

from __future__ import annotations

import math
from typing import cast

import msgspec
from msgspec.inspect import FloatType, IntType, StructType, UnionType, type_info

from sinks.records import Reason, ServingEvent
from streams.bus.base import Message  # noqa: TC001 - same

MAX_MESSAGE_BYTES = 1_048_576
MAX_AHEAD_MS = 3_600_000
EARLIEST_MS = 946_684_800_000
"""2000-01-01T00:00:00Z."""
_LATEST_MS = 253_402_300_799_999
"""The end of the year 9999, as in `sinks.records.TimeMs`."""


def _largest() -> dict[str, float]:
    """Read the limits of numbers from the record's own types, where they stand for all languages."""
    event = cast("StructType", type_info(ServingEvent))
    found: dict[str, float] = {}
    for field in event.fields:
        kinds = field.type.types if isinstance(field.type, UnionType) else (field.type,)
        for kind in kinds:
            if isinstance(kind, IntType | FloatType) and kind.le is not None:
                found[field.name] = kind.le
    return found


LARGEST = _largest()
"""By field of `ServingEvent`, the largest number that it may hold."""

Fault = tuple[Reason, str]
"""Why an event is refused: the reason, and the path to the field with the form expected there."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What is too much."""

    now_ms: int | None = None
    """The clock, for live traffic; None for history, where no event is ahead."""
    max_ahead_ms: float = MAX_AHEAD_MS
    """How far an event's time may lie ahead of the clock."""
    max_bytes: int = MAX_MESSAGE_BYTES
    """The largest message that is looked at."""

    @property
    def latest_ms(self) -> int:
        """The latest time that an event may have."""
        if self.now_ms is None:
            return _LATEST_MS
        return min(math.floor(self.now_ms + self.max_ahead_ms), _LATEST_MS)


class Rejection(msgspec.Struct, frozen=True, kw_only=True):
    """An event that could not be taken, and why. `detail` never repeats what the message held."""

    reason: Reason
    detail: str
    message: Message
    row: int | None = None
    """Which event of a micro-batch it was; None where the whole message is refused."""


def size_fault(size: int, limits: Limits) -> Fault | None:
    """Say what is wrong with a message of so many bytes, if anything."""
    if size <= 0:
        return "empty", "$: expected an event, got an empty message"
    if size > limits.max_bytes:
        return "too_large", f"$: expected at most {limits.max_bytes} bytes, got {size}"
    return None
