"""Dead letters: the record of what could not be decoded, and the point at which the worker must stop.

Who calls it: the worker and the embedded run, after every batch, with what the codec refused.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from functools import lru_cache
from typing import TYPE_CHECKING

from sinks.records import DeadLetter
from streams.errors import TooManyDeadLetters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streams.codec import Rejection
    from streams.settings import DeadLetterSettings


def dead_letter(rejection: Rejection) -> DeadLetter:
    """Make the record of a refused message; `sinks.records.DeadLetter` says why its value is not in it."""
    message = rejection.message
    value = message.value or b""
    return DeadLetter(
        reason=rejection.reason,
        detail=rejection.detail,
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        time_ms=max(message.time_ms, 0),
        size_bytes=len(value),
        sha256=_sha256(value),
        row=rejection.row,
    )


@lru_cache(maxsize=1)
def _sha256(value: bytes) -> str:
    """Return the digest of a message; cached, for every event of a micro-batch may be refused."""
    return hashlib.sha256(value).hexdigest()


class DeadLetterLimit:
    """Stops a worker that would otherwise quietly discard its input.

    Parameters
    ----------
    settings : DeadLetterSettings
        Largest share over a window, judged once the window is full, and largest count in a row. Both are
        counted by batch: a batch with any good event in it ends a row.
    """

    def __init__(self, settings: DeadLetterSettings) -> None:
        self._settings = settings
        self._batches: deque[tuple[int, int]] = deque()
        self._messages = 0
        self._refused = 0
        self._in_a_row = 0

    def record(self, accepted: int, rejections: Sequence[Rejection]) -> None:
        """Count a batch.

        Raises
        ------
        TooManyDeadLetters
            If a limit is passed. The batch's offsets must then not be committed.
        """
        refused = len(rejections)
        self._batches.append((accepted + refused, refused))
        self._messages += accepted + refused
        self._refused += refused
        while self._batches and self._messages - self._batches[0][0] >= self._settings.window_events:
            messages, old_refused = self._batches.popleft()
            self._messages -= messages
            self._refused -= old_refused
        self._in_a_row = 0 if accepted else self._in_a_row + refused
        if self._in_a_row > self._settings.max_consecutive:
            self._stop(f"the last {self._in_a_row} messages were all refused", rejections)
        if (
            self._messages >= self._settings.window_events
            and self._refused > self._settings.max_share * self._messages
        ):
            self._stop(f"{self._refused} of the last {self._messages} messages were refused", rejections)

    def _stop(self, why: str, rejections: Sequence[Rejection]) -> None:
        common = ""
        if rejections:
            reason = Counter(rejection.reason for rejection in rejections).most_common(1)[0][0]
            sample = next(rejection for rejection in rejections if rejection.reason == reason)
            at = sample.message
            common = f", most often {reason}, as {at.topic}/{at.partition}/{at.offset} ({sample.detail})"
        raise TooManyDeadLetters(
            "stopped before discarding the input",
            why + common,
            "Correct what writes to the topic, or raise dead_letters.max_share or .max_consecutive",
        )
