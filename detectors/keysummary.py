"""What a person is told of one key."""

from __future__ import annotations

import msgspec


class KeySummary(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one key now, for `modelwarden key show` and `key explain`."""

    key: str
    model: str
    query_count: int
    first_time_ms: int
    last_time_ms: int
    level: str | None
    key_p_value: float
    held_queries: float
    """Of the queries that a copy of the model needs (`detectors.budget`)."""
    features: dict[str, float]
