"""What becomes a mark on the dashboards: alerts, commands, policy changes; short, escaped, with an id.

The tag `id:...` is derived from the record, so that after a crash or a lost answer the writer can look
whether the annotation stands there already.
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from detectors.alert import is_budget_alert
from detectors.batch import is_synthetic

if TYPE_CHECKING:
    from detectors.alert import Alert
    from sinks.records import Command

Kind = Literal["alert", "command", "policy", "summary"]

MAX_TEXT = 300
MAX_TAG = 60
"""Of one tag; Grafana allows 500 bytes for all of an annotation's tags."""
_LINK_WINDOW_MS = 3_600_000


class Annotation(msgspec.Struct, frozen=True, kw_only=True):
    """One mark."""

    annotation_id: str
    kind: Kind
    time_ms: int
    end_ms: int | None = None
    """Of a region; None: a point."""
    text: str
    """HTML, escaped already."""
    tags: tuple[str, ...]
    place: str
    """What it is about: two of the same kind and place within minutes are told as one."""

    def body(self) -> dict[str, Any]:
        """Return what Grafana's annotation API takes."""
        id_tag = f"id:{self.annotation_id}"
        tags = ["modelwarden", f"kind:{self.kind}", *self.tags, id_tag]
        body: dict[str, Any] = {"time": self.time_ms, "tags": tags, "text": self.text}
        return body if self.end_ms is None else {**body, "timeEnd": self.end_ms}


def of_alert(alert: Alert) -> Annotation | None:
    """Return an alert's mark; None for the canary's, and for mere notices about a key."""
    quiet = alert.level == "notice" and alert.subject == "key" and not is_budget_alert(alert)
    if quiet or is_synthetic(alert.key):
        return None
    families = ", ".join(alert.families)
    return Annotation(
        annotation_id=alert.alert_id[:16],
        kind="alert",
        time_ms=alert.time_ms,
        text=_text(f"{alert.level}: {alert.sentence} ({families})", alert.key, alert.time_ms),
        tags=tuple(_tag(t) for t in (f"level:{alert.level}", f"model:{alert.model}", f"key:{alert.key}")),
        place=f"{alert.key}/{alert.model}/{alert.level}/{alert.subject}",
    )


def of_command(command: Command) -> Annotation:
    """Return a command's mark: a region until it expires, a point for a restore."""
    is_point = command.action == "restore"
    return Annotation(
        annotation_id=command.command_id[:16],
        kind="command",
        time_ms=command.issued_ms,
        end_ms=None if is_point else command.expires_ms,
        text=_text(f"{command.action} by rule {command.rule}", command.key, command.issued_ms),
        tags=tuple(_tag(t) for t in (f"action:{command.action}", f"key:{command.key}")),
        place=f"{command.key}/{command.model}/{command.action}",
    )


def of_policy(place: str, offset: int, time_ms: int) -> Annotation:
    """Return the mark of a policy that was published at an offset."""
    return Annotation(
        annotation_id=f"policy-{offset}",
        kind="policy",
        time_ms=time_ms,
        text=f"A policy was published ({html.escape(place)})",
        tags=(),
        place=f"policy-{offset}",
    )


def summarise(parts: list[Annotation]) -> Annotation:
    """Return one mark in place of several: how many of what, about how many places."""
    first = min(parts, key=lambda part: (part.time_ms, part.annotation_id))
    last_ms = max(part.end_ms or part.time_ms for part in parts)
    counts = [
        f"{sum(p.kind == kind for p in parts)} {kind}s"
        for kind in ("alert", "command")
        if any(p.kind == kind for p in parts)
    ]
    places = len({part.place.partition("/")[0] for part in parts})
    return Annotation(
        annotation_id=f"s{len(parts)}-{first.annotation_id}",
        kind="summary",
        time_ms=first.time_ms,
        end_ms=max(last_ms, first.time_ms),
        text=f"{' and '.join(counts)}, {places} keys: too many to tell one by one",
        tags=("kind:alert",),
        place="summary",
    )


def _text(said: str, key: str, time_ms: int) -> str:
    window = f"from={time_ms - _LINK_WINDOW_MS}&to={time_ms + _LINK_WINDOW_MS}"
    link = f"/d/modelwarden-key?var-key_ref={key}&{window}"
    return f'{html.escape(said[:MAX_TEXT])} <a href="{html.escape(link)}">{html.escape(key)}</a>'


def _tag(text: str) -> str:
    return text.encode()[:MAX_TAG].decode(errors="ignore")
