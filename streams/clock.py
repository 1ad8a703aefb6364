"""The only source of wall-clock and monotonic time; everything time-like takes a clock."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time. Never blocks."""

    def now_ms(self) -> int:
        """Return milliseconds since 1970."""

    def monotonic_s(self) -> float:
        """Return seconds from some fixed moment, never running backwards."""


class SystemClock:
    """The machine's own clock."""

    def now_ms(self) -> int:
        """Return milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Return seconds from some fixed moment, never running backwards."""
        return time.monotonic()


class ManualClock:
    """A clock that moves only when told to: for tests, replay and simulation.

    Parameters
    ----------
    start_ms : int
        Milliseconds since 1970 at the start.
    """

    def __init__(self, start_ms: int = 0) -> None:
        self._now_ms = start_ms
        self._monotonic_ms = 0

    def now_ms(self) -> int:
        """Return milliseconds since 1970."""
        return self._now_ms

    def monotonic_s(self) -> float:
        """Return seconds since the clock was made."""
        return self._monotonic_ms / 1000

    def advance(self, step_ms: int) -> None:
        """Let time pass. Raises ValueError for a negative step."""
        if step_ms < 0:
            raise ValueError(f"time cannot run backwards (step of {step_ms} ms)")
        self._now_ms += step_ms
        self._monotonic_ms += step_ms
