"""Where each key stands now: the level it reached, what it holds, what is in force against it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from detectors.alert import LEVELS, Level
from detectors.budget import NEEDED_QUERIES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from detectors.keysummary import KeySummary
    from streams.findings import Findings


class KeyStanding(msgspec.Struct, frozen=True, kw_only=True):
    """One key of one model."""

    key: str
    model: str
    tenant: str | None
    plan: str | None
    level: Level | None
    """The highest that it reached."""
    time_ms: int
    """Of its newest alert; of its last event for a key without one."""
    query_count: int
    """Then."""
    key_p_value: float
    """The smallest."""
    held_ratio: float
    """Of the queries that a copy needs."""
    alerts: int
    in_force: str | None
    """The action of its newest command that has not expired at the newest record's time."""
    sentence: str | None


def key_standings(found: Findings, others: Iterable[KeySummary] = ()) -> list[KeyStanding]:
    """Return where keys stand, most suspect first: those with an alert, and `others` that have none."""
    alerts: dict[tuple[str, str], list] = {}  # type: ignore[type-arg]  # of alerts
    for alert in found.alerts:
        if alert.subject == "key":
            alerts.setdefault((alert.key, alert.model), []).append(alert)
    summaries = {(summary.key, summary.model): summary for summary in others}
    in_force = _in_force(found)
    standings = []
    for (key, model), listed in alerts.items():
        highest = max(listed, key=lambda alert: (LEVELS.index(alert.level), alert.time_ms))
        account = next((a.extraction for a in reversed(listed) if a.extraction is not None), None)
        known = summaries.pop((key, model), None)
        standings.append(
            KeyStanding(
                key=key,
                model=model,
                tenant=highest.tenant,
                plan=highest.plan,
                level=highest.level,
                time_ms=listed[-1].time_ms,
                query_count=listed[-1].query_count if known is None else known.query_count,
                key_p_value=min(alert.key_p_value for alert in listed),
                held_ratio=max(account.held_ratio, 0.0) if account else 0.0,
                alerts=len(listed),
                in_force=in_force.get((key, model), in_force.get((key, None))),
                sentence=highest.sentence,
            )
        )
    standings += [
        KeyStanding(
            key=summary.key,
            model=summary.model,
            tenant=None,
            plan=None,
            level=None,
            time_ms=summary.last_time_ms,
            query_count=summary.query_count,
            key_p_value=summary.key_p_value,
            held_ratio=max(summary.held_queries, 0.0) / NEEDED_QUERIES,
            alerts=0,
            in_force=None,
            sentence=None,
        )
        for summary in summaries.values()
    ]
    return sorted(standings, key=_suspicion)


def _suspicion(key: KeyStanding) -> tuple[int, float, int]:
    return -1 - LEVELS.index(key.level) if key.level else 0, key.key_p_value, -key.query_count


def _in_force(found: Findings) -> dict[tuple[str, str | None], str]:
    """Return the newest command of each key that has not expired, by key and model."""
    newest = max([a.time_ms for a in found.alerts] + [d.time_ms for d in found.decisions], default=0)
    standing: dict[tuple[str, str | None], str] = {}
    for command in found.commands:
        place = command.key, command.model
        standing.pop(place, None)
        if command.expires_ms > newest and command.action != "restore":
            standing[place] = command.action
    return standing
