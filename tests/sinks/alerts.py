"""Alerts for tests."""

from __future__ import annotations

from typing import Any

from detectors.alert import Alert, alert_id

START_MS = 1_763_900_000_000
KEY = "k0-" + "a" * 32


def make_alert(offset: int = 0, **fields: Any) -> Alert:
    """Make an alert as the engine would; every field may be set."""
    level = fields.get("level", "warning")
    plain: dict[str, Any] = {
        "alert_id": alert_id("modelwarden.events", 0, offset, level),
        "time_ms": START_MS,
        "key": KEY,
        "model": "digits",
        "level": level,
        "key_p_value": 1e-3,
        "e_value_log10": 3.0,
        "extrapolated": False,
        "families": ("boundary",),
        "evidence": (),
        "features": (),
        "techniques": (),
        "query_count": 100,
        "topic": "modelwarden.events",
        "partition": 0,
        "offset": offset,
        "first_offset": 0,
        "code_version": "0",
        "reference_version": "0",
        "would_not_have_fired": "fewer odd queries",
        "sentence": "The key asks near the boundary.",
    }
    return Alert(**(plain | fields))
