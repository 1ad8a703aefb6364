"""How reports write numbers, times and names."""

from __future__ import annotations

from datetime import UTC, datetime

LEVEL_MARK = {"notice": "●", "warning": "▲", "critical": "■"}
"""A shape for each level, so that colour is never the only difference."""
COMMAND_MARK = "✕"


def utc(time_ms: int) -> str:
    """Write a time to the minute, UTC."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def short_time(time_ms: int) -> str:
    """Write a time as day and time of day, UTC."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%d %b %H:%M")


def duration(ms: float) -> str:
    """Write a duration in its two largest units."""
    minutes = ms / 60_000
    if minutes < 1:
        return f"{ms / 1000:.0f} s"
    if minutes < 60:
        return f"{minutes:.0f} min"
    hours, days = minutes / 60, minutes / 1440
    if hours < 48:
        return f"{int(hours)} h {int(minutes % 60)} min"
    return f"{days:,.0f} days" if days >= 10 else f"{days:.1f} days"


def odds(p_value: float) -> str:
    """Write a share of honest keys: `1 in 3,000`."""
    if p_value > 0.5:
        return "most honest keys"
    count = 1 / max(p_value, 1e-300)
    if count >= 1e9:
        return "< 1 in 10⁹"
    digits = 10 ** max(len(str(int(count))) - 2, 0)
    return f"1 in {int(count) // digits * digits:,}"


def names(words: tuple[str, ...]) -> str:
    """Write names of families for a person."""
    return ", ".join(words).replace("_", " ")


def short_key(key: str) -> str:
    """Return the part of a key reference that tells keys apart at a glance."""
    return key[:11]


def plural(count: int, noun: str) -> str:
    """Write `1 key`, `2 keys`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
