"""Everything that was found, decided and done about one API key, from a run's files or from the topics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from detectors.alert import LEVELS, Alert
from sinks.records import Command, Decision
from streams.errors import ModelwardenError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from streams.bus.base import Bus
    from streams.settings import Settings

Record = TypeVar("Record", Alert, Decision, Command)

ALERTS_FILE = "alerts.jsonl"
KAFKA = "kafka://"


class StoryError(ModelwardenError):
    """There is no run to read, or a record in it cannot be read."""


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


def newest_run(parent: Path) -> Path:
    """Return the folder that was written to last: `parent` or one directly in it. Raises StoryError."""
    found = [*parent.glob(ALERTS_FILE), *parent.glob(f"*/{ALERTS_FILE}")]
    if not found:
        raise StoryError(
            f"{parent}/",
            f"no run's records ({ALERTS_FILE}) are there",
            "Run `modelwarden demo` first, or name a place with --run DIR or --kafka HOST:PORT",
        )
    return max(found, key=lambda path: (path.stat().st_mtime_ns, str(path))).parent


def read_run(folder: Path, key: str) -> KeyStory:
    """Read a run's folder, as `sinks.files` writes it.

    Raises
    ------
    StoryError
        If it is no such folder, or a line in it is not a record.
    """
    if not (folder / ALERTS_FILE).exists():
        why = "no such folder" if not folder.is_dir() else f"no {ALERTS_FILE} in it, so nothing was found"
        raise StoryError(str(folder), why, "Give the folder of a run, as `modelwarden demo` names it")
    return _story(key, str(folder), lambda kind, _: _file_lines(folder / f"{kind}.jsonl", key))


def read_topics(bus: Bus, settings: Settings, key: str) -> KeyStory:
    """Read the topics of a deployment to their ends.

    Raises
    ------
    BusError
        If the brokers cannot be reached or a topic does not exist.
    StoryError
        If a record on a topic cannot be read.
    """

    def lines(_kind: str, topic: str) -> Iterator[tuple[str, bytes]]:
        name = settings.topic(topic)
        for batch in bus.read([name]):
            for message in batch:
                if message.value and key.encode() in message.value:
                    yield f"{name}/{message.partition}/{message.offset}", message.value

    return _story(key, f"{KAFKA}{settings.kafka}", lines)


def _story(key: str, source: str, lines: Callable[[str, str], Iterable[tuple[str, bytes]]]) -> KeyStory:
    decisions = _records(Decision, lines("decisions", "audit"), key)
    return KeyStory(
        key=key,
        source=source,
        alerts=tuple(sorted(_records(Alert, lines("alerts", "alerts"), key), key=lambda a: a.time_ms)),
        decisions=tuple(sorted(decisions, key=lambda d: d.time_ms)),
        commands=tuple(
            sorted(_records(Command, lines("commands", "commands"), key), key=lambda c: c.sequence)
        ),
    )


def _file_lines(path: Path, key: str) -> Iterator[tuple[str, bytes]]:
    if not path.exists():  # a file is made when the first record of its kind comes
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if key.encode() in line:
                yield f"{path} line {number}", line


def _records(kind: type[Record], lines: Iterable[tuple[str, bytes]], key: str) -> list[Record]:
    """Decode the records of the key; the same record written twice counts once."""
    decoder = msgspec.json.Decoder(kind)
    found: dict[Any, Record] = {}
    for place, line in lines:
        try:
            record = decoder.decode(line)
        except msgspec.DecodeError as error:
            why = f"not a record of this version ({error})"
            raise StoryError(place, why, "Read it with the version that wrote it") from error
        if record.key == key:
            found[_identity(record)] = record
    return list(found.values())


def _identity(record: Alert | Decision | Command) -> str:
    if isinstance(record, Alert):
        return record.alert_id
    return record.decision_id if isinstance(record, Decision) else record.command_id
