"""Everything that was found, decided and done about one API key, from a run's files or from the topics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from detectors.alert import LEVELS, Alert
from sinks.records import Command, Decision  # noqa: TC001 - msgspec reads the annotations at run time
from streams import findings
from streams.findings import KAFKA, FindingsError, newest_run

if TYPE_CHECKING:
    from pathlib import Path

    from streams.bus.base import Bus
    from streams.findings import Findings
    from streams.settings import Settings

__all__ = ["FindingsError", "KeyStory", "newest_run", "read_run", "read_topics"]


class KeyStory(msgspec.Struct, frozen=True, kw_only=True):
    """One key: what was found, what the policy made of it, and what was sent. In order of time."""

    key: str
    source: str
    alerts: tuple[Alert, ...]
    decisions: tuple[Decision, ...]
    commands: tuple[Command, ...]

    @property
    def highest(self) -> Alert | None:
        """The newest alert of the highest level."""
        return max(self.alerts, key=lambda alert: (LEVELS.index(alert.level), alert.time_ms), default=None)

    @property
    def place_option(self) -> str:
        """The option of `modelwarden key` that reads the same place again."""
        kafka = self.source.removeprefix(KAFKA)
        return f"--run {self.source}" if kafka == self.source else f"--kafka {kafka}"

    def decision_on(self, alert: Alert) -> Decision | None:
        """Return what the policy made of an alert."""
        return next((d for d in self.decisions if d.alert_id == alert.alert_id), None)


def read_run(folder: Path, key: str) -> KeyStory:
    """Read a key's story from a run's folder. Raises FindingsError."""
    return _story(key, findings.read_run(folder, key))


def read_topics(bus: Bus, settings: Settings, key: str) -> KeyStory:
    """Read a key's story from the topics of a deployment. Raises BusError and FindingsError."""
    return _story(key, findings.read_topics(bus, settings, key))


def _story(key: str, found: Findings) -> KeyStory:
    return KeyStory(
        key=key,
        source=found.source,
        alerts=found.alerts,
        decisions=found.decisions,
        commands=found.commands,
    )
