"""What was found, decided and commanded, from a run's folder or from the topics of a deployment.

Everything that shows findings reads them here: `modelwarden keys`, `alerts`, `decisions`, `key show`, `top`
and the report. A record that stands there twice counts once; all are in order of time.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from detectors.alert import Alert
from sinks.records import Command, Decision
from streams.errors import ModelwardenError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from streams.bus.base import Bus
    from streams.settings import Settings

Record = TypeVar("Record", bound=msgspec.Struct)

ALERTS_FILE = "alerts.jsonl"
KAFKA = "kafka://"
KINDS: dict[str, tuple[str, type[Alert | Decision | Command]]] = {
    "alerts": ("alerts", Alert),
    "decisions": ("decisions", Decision),
    "commands": ("commands", Command),
}
"""Topic and type of each kind of record, by the name of its file in a run's folder."""

FOLLOWED_RECORDS = 20_000
"""Newest records of each kind that a follower keeps."""


class FindingsError(ModelwardenError):
    """There is no run to read, or a record in it cannot be read."""


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """What a run or a deployment found so far."""

    source: str
    alerts: tuple[Alert, ...] = ()
    decisions: tuple[Decision, ...] = ()
    commands: tuple[Command, ...] = ()

    def decision_on(self, alert: Alert) -> Decision | None:
        """Return what the policy made of an alert."""
        return next((d for d in self.decisions if d.alert_id == alert.alert_id), None)


def newest_run(parent: Path) -> Path:
    """Return the folder that was written to last: `parent` or one directly in it. Raises FindingsError."""
    found = [*parent.glob(ALERTS_FILE), *parent.glob(f"*/{ALERTS_FILE}")]
    if not found:
        raise FindingsError(
            f"{parent}/",
            f"no run's records ({ALERTS_FILE}) are there",
            "Run `modelwarden demo` first, or name a place with --run DIR or --kafka HOST:PORT",
        )
    return max(found, key=lambda path: (path.stat().st_mtime_ns, str(path))).parent


def read_run(folder: Path, key: str | None = None) -> Findings:
    """Read a run's folder, as `sinks.files` writes it; with `key`, what is about that key only.

    Raises
    ------
    FindingsError
        If it is no such folder, or a line in it is not a record.
    """
    if not (folder / ALERTS_FILE).exists():
        why = "no such folder" if not folder.is_dir() else f"no {ALERTS_FILE} in it, so nothing was found"
        raise FindingsError(str(folder), why, "Give the folder of a run, as `modelwarden demo` names it")
    return _findings(str(folder), key, lambda kind: read_file(folder / f"{kind}.jsonl", key))


def read_topics(bus: Bus, settings: Settings, key: str | None = None) -> Findings:
    """Read the topics of a deployment to their ends; with `key`, what is about that key only.

    Raises
    ------
    BusError
        If the brokers cannot be reached or a topic does not exist.
    FindingsError
        If a record on a topic cannot be read.
    """

    def lines(kind: str) -> Iterator[tuple[str, bytes]]:
        name = settings.topic(KINDS[kind][0])
        for batch in bus.read([name]):
            for message in batch:
                if message.value and (key is None or key.encode() in message.value):
                    yield f"{name}/{message.partition}/{message.offset}", message.value

    return _findings(f"{KAFKA}{settings.kafka}", key, lines)


def _findings(source: str, key: str | None, lines: Callable[[str], Iterable[tuple[str, bytes]]]) -> Findings:
    def read(kind: str) -> list[Any]:
        return decode_records(KINDS[kind][1], lines(kind), key)

    return Findings(
        source=source,
        alerts=tuple(sorted(read("alerts"), key=lambda alert: alert.time_ms)),
        decisions=tuple(sorted(read("decisions"), key=lambda decision: decision.time_ms)),
        commands=tuple(sorted(read("commands"), key=lambda command: command.sequence)),
    )


def read_file(path: Path, key: str | None = None) -> Iterator[tuple[str, bytes]]:
    """Yield a file's lines with their places, those that may be about `key`; none if there is no file."""
    if not path.exists():  # a file is made when the first record of its kind comes
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if key is None or key.encode() in line:
                yield f"{path} line {number}", line


def decode_records(
    kind: type[Record], lines: Iterable[tuple[str, bytes]], key: str | None = None
) -> list[Record]:
    """Decode records, each once, those of `key` if it is given. Raises FindingsError."""
    decoder = msgspec.json.Decoder(kind)
    found: dict[Any, Record] = {}
    for place, line in lines:
        try:
            record = decoder.decode(line)
        except msgspec.DecodeError as error:
            why = f"not a record of this version ({error})"
            raise FindingsError(place, why, "Read it with the version that wrote it") from error
        if key is None or getattr(record, "key", None) == key:
            found[_identity(record)] = record
    return list(found.values())


def _identity(record: Any) -> Any:
    match record:
        case Alert():
            return record.alert_id
        case Decision():
            return record.decision_id
        case Command():
            return record.command_id
        case _:
            return getattr(record, "key", None), record.model


class TopicFollower:
    """Reads the topics of a deployment again and again, each time only what is new.

    Parameters
    ----------
    bus : Bus
    settings : Settings
        Names the topics.
    """

    def __init__(self, bus: Bus, settings: Settings) -> None:
        self._bus = bus
        self._settings = settings
        self._start: dict[tuple[str, int], int] = {}
        self._lines: dict[str, deque[tuple[str, bytes]]] = {
            kind: deque(maxlen=FOLLOWED_RECORDS) for kind in KINDS
        }

    def read(self) -> Findings:
        """Return the newest of everything found so far. Raises BusError and FindingsError."""
        for kind, (topic, _) in KINDS.items():
            name = self._settings.topic(topic)
            for batch in self._bus.read([name], start=self._start):
                for message in batch:
                    self._start[name, message.partition] = message.offset + 1
                    if message.value:
                        place = f"{name}/{message.partition}/{message.offset}"
                        self._lines[kind].append((place, message.value))
        return _findings(f"{KAFKA}{self._settings.kafka}", None, lambda kind: self._lines[kind])
