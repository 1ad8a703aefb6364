"""History through the pipeline: files of events, or a part of a topic. Nothing leaves; results are returned.

A topic's partitions have a pipeline each, as with workers, so the result does not depend on the order in
which partitions are read. Files are one partition; an event's offset is its line, counted over all files
from 0.
"""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from detectors.alert import LEVELS, Alert
from streams.deadletter import dead_letter
from streams.eventfile import read_event_file
from streams.places import PlaceError
from streams.recordblock import OFFSET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from detectors.engine import Engine
    from sinks.files import FileSink
    from sinks.records import Command, DeadLetter, Decision
    from streams.bus.base import Bus, Message
    from streams.fleet import Historian
    from streams.pipeline import Outputs, Pipeline
    from streams.places import TopicPlace
    from streams.recordblock import RecordBlock

BATCH_MESSAGES = 4096
KEPT_REJECTIONS = 1000
"""Rejections kept in full; all are counted."""


class AlertedKey(msgspec.Struct, frozen=True, kw_only=True):
    """One key with what was found about it."""

    key: str
    model: str
    level: str
    """The highest."""
    first_query: int
    """The key's own events up to the first alert."""
    alerts: int
    families: tuple[str, ...]
    actions: tuple[str, ...]
    """What the policy would do, in order."""
    sentence: str


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay found; the same input and settings give the same bytes."""

    schema: int = 1
    sources: tuple[str, ...]
    complete: bool
    """False: interrupted, and everything here is of the part that was read."""
    events: int
    rejected: dict[str, int]
    """By reason."""
    keys: int
    """Keys in the state at the end, each model's counted."""
    models_without_reference: tuple[str, ...]
    """They were learned from this traffic itself."""
    alerts: dict[str, int]
    """By level."""
    keys_alerted: tuple[AlertedKey, ...]
    """Highest level first, then in order of time."""
    mode: str
    """Of the policy."""
    policy_version: str
    decisions: dict[str, int]
    """By action."""
    withheld: dict[str, int]
    """Decisions that no command follows from, by why."""
    commands: dict[str, int]
    """By action: what would have been sent. A replay sends nothing."""


@dataclass
class Collected:
    """What came of a replay so far."""

    alerts: list[Alert] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    events: int = 0

    def add(self, outputs: Outputs) -> None:
        """Take what came of some messages."""
        self.events += outputs.events
        self.alerts += outputs.alerts
        self.decisions += outputs.decisions
        self.commands += outputs.commands
        self.rejected.update(rejection.reason for rejection in outputs.rejections)
        room = KEPT_REJECTIONS - len(self.dead_letters)
        self.dead_letters += map(dead_letter, outputs.rejections[: max(room, 0)])

    def sort(self) -> None:
        """Bring everything into an order that does not depend on how partitions were read."""
        self.alerts.sort(key=lambda alert: (alert.time_ms, alert.partition, alert.offset))
        place = {alert.alert_id: index for index, alert in enumerate(self.alerts)}
        self.decisions.sort(key=lambda decision: place[decision.alert_id])
        self.commands.sort(key=lambda command: place[command.alert_id])
        self.dead_letters.sort(key=lambda letter: (letter.partition, letter.offset))

    def write(self, sink: FileSink) -> None:
        """Write everything as a run's files."""
        sink.write("alerts", self.alerts)
        sink.write("decisions", self.decisions)
        sink.write("commands", self.commands)
        sink.write("dead-letters", self.dead_letters)


class Replay:
    """One replay.

    Parameters
    ----------
    build : callable
        Makes an empty pipeline for history.
    stopped : callable, optional
        Asked before each batch; True ends the replay with what there is.
    tell : callable, optional
        Told how far the replay is, in the units of what it reads: bytes of files, records of a topic.
    waiting : callable, optional
        Makes a context for every wait for input, inside which KeyboardInterrupt, too, ends the replay with
        what there is.
    historian : Historian, optional
        Follows some keys through this replay; it finds the same without one.
    """

    def __init__(
        self,
        build: Callable[[], Pipeline],
        *,
        stopped: Callable[[], bool] = lambda: False,
        tell: Callable[[int], None] = lambda _: None,
        waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
        historian: Historian | None = None,
    ) -> None:
        self._build = build
        self._stopped = stopped
        self._tell = tell
        self._waiting = waiting
        self._historian = historian
        self._pipelines: dict[int, Pipeline] = {}
        self.collected = Collected()
        self.complete = False

    def files(self, paths: Sequence[Path], max_message_bytes: int, *, last: int | None = None) -> None:
        """Replay files, in the order given, up to line `last` if it is given. Raises ModelwardenError."""
        self._run(_batches_of(self._blocks(paths, max_message_bytes), last))

    def _blocks(self, paths: Sequence[Path], max_line_bytes: int) -> Iterator[RecordBlock]:
        offset = before = 0
        for path in paths:
            for block, read in read_event_file(path, max_line_bytes=max_line_bytes, first_offset=offset):
                self._tell(before + read)
                yield block
                offset = block.last + 1
            before += path.stat().st_size if path.is_file() else 0

    def topic(self, bus: Bus, place: TopicPlace, *, partition: int | None = None) -> None:
        """Replay a part of a topic, all partitions or one. Raises ModelwardenError and BusError."""
        ranges = {p: found for p, found in topic_ranges(bus, place).items() if partition in {None, p}}
        start = {(place.topic, p): first for p, (first, _) in ranges.items()}
        ends = {p: end for p, (first, end) in ranges.items() if end > first}
        if ends:
            batches = bus.read([place.topic], start=start, max_records=BATCH_MESSAGES)
            self._run(self._batches(batches, ends))
        else:
            self._run(iter(()))

    def _batches(self, batches: Iterator[list[Message]], ends: dict[int, int]) -> Iterator[list[Message]]:
        """Yield lists of one partition, up to its end; stop when every partition is there."""
        left = set(ends)
        read = 0
        for batch in batches:
            for partition, end in ends.items():
                part = [m for m in batch if m.partition == partition and m.offset < end]
                if part:
                    yield part
                    read += len(part)
                if any(m.partition == partition and m.offset >= end - 1 for m in batch):
                    left.discard(partition)
            self._tell(read)
            if not left:
                return

    def _run(self, batches: Iterator[Sequence[Message]]) -> None:
        while (batch := self._next(batches)) and not self._stopped():
            partition = batch[0].partition
            if partition not in self._pipelines:
                self._pipelines[partition] = self._build()
            self._process(self._pipelines[partition], batch)
        # Also at the end of the input: Ctrl-C may have ended what writes it.
        self.complete = not self._stopped()
        self.collected.sort()

    def _process(self, pipeline: Pipeline, batch: Sequence[Message]) -> None:
        if self._historian is None:
            self.collected.add(pipeline.process(batch))
            return
        for piece, due in self._historian.cut(batch):
            self.collected.add(pipeline.process(piece))
            self._historian.note(pipeline.engine, due)

    def _next(self, batches: Iterator[Sequence[Message]]) -> Sequence[Message]:
        try:
            with self._waiting():
                return next(batches, [])
        except KeyboardInterrupt:
            return []

    @property
    def engines(self) -> list[Engine]:
        """The engines, by partition."""
        return [self._pipelines[partition].engine for partition in sorted(self._pipelines)]

    @property
    def models(self) -> set[str]:
        """Models that the state has keys of."""
        return {s.model for pipeline in self._pipelines.values() for s in pipeline.engine.summaries()}

    @property
    def key_count(self) -> int:
        """Keys in the state, each model's counted."""
        return sum(pipeline.engine.key_count for pipeline in self._pipelines.values())


def _batches_of(blocks: Iterator[RecordBlock], last: int | None) -> Iterator[RecordBlock]:
    """Cut blocks into batches, up to the record of offset `last`."""
    for block in blocks:
        first = int(block.spans[OFFSET, 0])
        wanted = len(block) if last is None else min(len(block), last - first)
        for start in range(0, wanted, BATCH_MESSAGES):
            yield block[start : min(start + BATCH_MESSAGES, wanted)]
        if wanted < len(block):
            return


def topic_ranges(bus: Bus, place: TopicPlace) -> dict[int, tuple[int, int]]:
    """Return, per partition, the first offset to replay and the one after the last. Raises as `Bus` does."""
    ends = bus.end_offsets(place.topic)
    if place.first and all(end <= place.first for end in ends.values()):
        what = f"kafka://{place.bootstrap}/{place.topic}@{place.first}.."
        raise PlaceError(what, f"the topic ends before, at {max(ends.values())}", "Begin earlier")
    starts = dict.fromkeys(ends, place.first)
    if place.first_ms is not None:
        starts = bus.offsets_at(place.topic, place.first_ms)
        if all(starts[p] >= end for p, end in ends.items()):
            what = f"kafka://{place.bootstrap}/{place.topic}"
            raise PlaceError(what, "it got no record in that time", "Begin earlier")
    if place.last_ms is not None:
        stops = bus.offsets_at(place.topic, place.last_ms)
    else:
        stops = {p: end if place.last is None else min(end, place.last) for p, end in ends.items()}
    return {p: (starts[p], stops[p]) for p in ends}


def summarise(replay: Replay, **known: Any) -> Replayed:
    """Sum up a replay; `known` are the fields of `Replayed` that it does not know itself."""
    collected = replay.collected
    levels = Counter(alert.level for alert in collected.alerts)
    return Replayed(
        complete=replay.complete,
        events=collected.events,
        rejected=dict(sorted(collected.rejected.items())),
        keys=replay.key_count,
        alerts={level: levels[level] for level in LEVELS},
        keys_alerted=_alerted_keys(collected),
        decisions=_count(decision.action for decision in collected.decisions),
        withheld=_count(decision.withheld for decision in collected.decisions if decision.withheld),
        commands=_count(command.action for command in collected.commands),
        **known,
    )


def _count(names: Iterator[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _alerted_keys(collected: Collected) -> tuple[AlertedKey, ...]:
    alerts: dict[tuple[str, str], list[Alert]] = {}
    for alert in collected.alerts:
        if alert.subject == "key":
            alerts.setdefault((alert.key, alert.model), []).append(alert)
    actions = {decision.alert_id: decision.action for decision in collected.decisions}
    rows = []
    for (key, model), found in alerts.items():
        highest = max(found, key=lambda alert: LEVELS.index(alert.level))
        rows.append(
            AlertedKey(
                key=key,
                model=model,
                level=highest.level,
                first_query=found[0].query_count,
                alerts=len(found),
                families=highest.families,
                actions=tuple(actions[a.alert_id] for a in found if a.alert_id in actions),
                sentence=highest.sentence,
            )
        )
    return tuple(sorted(rows, key=lambda row: -LEVELS.index(row.level)))
