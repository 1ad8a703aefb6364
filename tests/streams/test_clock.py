"""Clocks."""

from __future__ import annotations

import pytest

from streams.clock import Clock, ManualClock, SystemClock


def test_a_manual_clock_moves_only_when_told() -> None:
    clock: Clock = (manual := ManualClock(1_000))
    assert (clock.now_ms(), clock.monotonic_s()) == (1_000, 0.0)
    manual.advance(2_500)
    assert (clock.now_ms(), clock.monotonic_s()) == (3_500, 2.5)
    with pytest.raises(ValueError, match="backwards"):
        manual.advance(-1)


def test_the_system_clock_is_in_milliseconds_and_ascends() -> None:
    clock = SystemClock()
    assert clock.now_ms() > 1_700_000_000_000
    assert clock.monotonic_s() <= clock.monotonic_s()
