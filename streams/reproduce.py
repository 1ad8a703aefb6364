"""A past alert and its decision, made again from the events, and held against what was recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from detectors.alert import Alert  # noqa: TC001 - msgspec reads the annotations at run time
from sinks.records import Decision  # noqa: TC001 - same
from streams.errors import ModelwardenError

if TYPE_CHECKING:
    from streams.findings import Findings
    from streams.replay import Collected

MODE_FIELDS = frozenset({"mode", "withheld", "command"})
"""Of a decision: they follow from whether commands may leave, and a replay lets none."""


class Reproduced(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    schema: int = 1
    alert_id: str
    exact: bool
    """Alert and decision are equal to those recorded, but for whether a command left."""
    differences: tuple[str, ...]
    """Fields that differ, as `alert.key_p_value: 0.1, recorded 0.2`."""
    events: int
    """Replayed to get there."""
    alert: Alert | None
    decision: Decision | None


def recorded_alert(found: Findings, alert_id: str) -> Alert:
    """Return the alert of an id, or of the beginning of one that is unambiguous. Raises ModelwardenError."""
    matches = [alert for alert in found.alerts if alert.alert_id.startswith(alert_id)]
    if len(matches) == 1:
        return matches[0]
    why = "no alert there has this id" if not matches else f"{len(matches)} alerts begin with it"
    raise ModelwardenError(
        f"alert {alert_id}", why, f"Take an id from `modelwarden alerts list` (read from {found.source})"
    )


def compare_records(found: Findings, wanted: Alert, collected: Collected) -> Reproduced:
    """Hold what a replay collected against what was recorded."""
    alert = next((a for a in collected.alerts if a.alert_id == wanted.alert_id), None)
    decision = next((d for d in collected.decisions if d.alert_id == wanted.alert_id), None)
    recorded = found.decision_on(wanted)
    differences = _differences("alert", alert, wanted)
    if recorded is not None or decision is not None:
        differences += _differences("decision", decision, recorded)
    return Reproduced(
        alert_id=wanted.alert_id,
        exact=not differences,
        differences=tuple(differences),
        events=collected.events,
        alert=alert,
        decision=decision,
    )


def _differences(what: str, made: msgspec.Struct | None, recorded: msgspec.Struct | None) -> list[str]:
    if made is None or recorded is None:
        return [f"{what}: {_presence(made)}, recorded {_presence(recorded)}"]
    pairs: list[tuple[str, Any, Any]] = [
        (name, getattr(made, name), getattr(recorded, name))
        for name in made.__struct_fields__
        if what == "alert" or name not in MODE_FIELDS
    ]
    return [f"{what}.{name}: {one}, recorded {other}" for name, one, other in pairs if one != other]


def _presence(record: msgspec.Struct | None) -> str:
    return "none" if record is None else "one"
