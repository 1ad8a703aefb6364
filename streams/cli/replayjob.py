"""One call of `modelwarden replay`: what is read, by which settings, and what is made of it."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from detectors.alert import LEVELS
from sinks.policyfile import is_policy_folder, load_policy
from streams import whatif
from streams.cli.progress import show_progress
from streams.errors import ModelwardenError
from streams.findings import Findings, read_run, read_topics
from streams.fleet import WATCHED_KEYS, Historian, KeyStates, read_states, survey
from streams.pipeline import build_pipeline, load_references
from streams.places import STANDARD, TopicPlace, parse_place
from streams.replay import Replay, Replayed, summarise, topic_ranges
from streams.reproduce import Reproduced, compare_records, recorded_alert
from streams.samples import load_references as load_shipped
from streams.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from detectors.reference import ModelReference
    from sinks.kafkasecurity import KafkaSecurity
    from sinks.policyfile import Policy
    from streams.bus.kafka import KafkaBus
    from streams.cli.progress import Stop
    from streams.pipeline import Pipeline
    from streams.settings import Settings
    from streams.whatif import Difference, Judged

SAMPLE = "sample"
"""Stands for the references that come with the program."""
ASK_TIMEOUT_S = 5.0
"""How long a broker may take to say how much there is to read."""


def make_job(
    places: tuple[str, ...],
    settings_file: Path | None,
    policy: Path | None,
    references: str | None,
    stop: Stop,
) -> ReplayJob:
    """Read everything that a replay needs before its first event. Raises ModelwardenError."""
    parsed = [parse_place(text) for text in places]
    paths = [place for place in parsed if isinstance(place, Path)]
    topics = [place for place in parsed if isinstance(place, TopicPlace)]
    if len(topics) > 1 or (topics and paths):
        raise click.UsageError("Give files, or one topic: their events have no order among each other.")
    settings = load_settings(settings_file, os.environ)
    if policy is not None:
        settings = msgspec.structs.replace(settings, policy_file=policy)
    if references not in {None, SAMPLE}:
        settings = msgspec.structs.replace(settings, references_path=Path(str(references)))
    path = settings.references_path
    known = load_shipped() if references == SAMPLE else {} if path is None else dict(load_references(path))
    return ReplayJob(
        written=places,
        paths=paths,
        topic=topics[0] if topics else None,
        settings=settings,
        references=known,
        policy=load_policy(settings.policy_file, settings.policy_mode),
        stop=stop,
    )


@dataclass
class ReplayJob:
    """What to replay, and how."""

    written: tuple[str, ...]
    """The places as they were given."""
    paths: list[Path]
    topic: TopicPlace | None
    settings: Settings
    references: Mapping[str, ModelReference]
    policy: Policy
    stop: Stop
    _states: dict[int, KeyStates] = field(default_factory=dict)

    def run(self) -> tuple[Replay, Replayed]:
        """Replay everything, with progress on standard error."""
        replay = self._play("Replaying")
        summary = summarise(
            replay,
            sources=self.written,
            models_without_reference=tuple(sorted(replay.models - set(self.references))),
            mode=self.policy.mode,
            policy_version=self.policy.policy_version,
        )
        return replay, summary

    def states(self, replay: Replay) -> KeyStates:
        """Return how keys stood at the end of a replay."""
        if id(replay) not in self._states:
            self._states[id(replay)] = survey(replay.engines)
        return self._states[id(replay)]

    def page(self, replay: Replay, summary: Replayed, difference: Difference | None) -> bytes:
        """Write the report page, after a second replay that follows the keys that were found."""
        from streams.html.run import replay_page  # noqa: PLC0415 - needed only here

        found = Findings(
            source=", ".join(self.written),
            alerts=tuple(replay.collected.alerts),
            decisions=tuple(replay.collected.decisions),
            commands=tuple(replay.collected.commands),
        )
        states = self.states(replay)
        can_read_again = all(str(path) != STANDARD for path in self.paths)
        if can_read_again and found.alerts and not self.stop.is_set():
            keys = [
                (row.key, row.model)
                for row in sorted(summary.keys_alerted, key=lambda row: -LEVELS.index(row.level))
            ]
            historian = Historian(keys[:WATCHED_KEYS])
            self._play("Following the keys that were found", historian=historian)
            states = msgspec.structs.replace(states, history=historian.history())
        return replay_page(summary, found, states, difference)

    def read_other(self, path: Path) -> Policy | Findings:
        """Read what to compare with: a policy, or the folder of another replay."""
        return read_run(path) if path.is_dir() and not is_policy_folder(path) else load_policy(path)

    def difference(self, replay: Replay, other: Policy | Findings, price: float | None) -> Difference:
        """Say what would change for customers, from `other` to this replay."""
        states = self.states(replay)
        counts = whatif.call_counts(states.keys)
        alerts = replay.collected.alerts
        if isinstance(other, Findings):
            counts |= whatif.call_counts(read_states(Path(other.source)).keys)
            before, against = whatif.judge(other.alerts, self.policy), other.source
        else:
            before, against = whatif.judge(alerts, other), other.policy_version
        after: Judged = whatif.judge(alerts, self.policy)
        return whatif.compare(
            before,
            after,
            counts,
            span_ms=states.span_ms,
            price=price,
            sources=self.written,
            complete=replay.complete,
            events=replay.collected.events,
            against=against,
        )

    def reproduce(self, alert_id: str, run_dir: Path | None) -> Reproduced:
        """Make a recorded alert again."""
        found = self._recorded(run_dir)
        alert = recorded_alert(found, alert_id)
        replay = Replay(self._build, stopped=self.stop.is_set, waiting=self.stop.waiting)
        if self.topic is None:
            replay.files(self.paths, self.settings.max_message_bytes, last=alert.offset + 1)
        else:
            place = msgspec.structs.replace(self.topic, last=alert.offset + 1)
            with _open_bus(place, self.settings.kafka_security) as bus:
                replay.topic(bus, place, partition=alert.partition)
        return compare_records(found, alert, replay.collected)

    def _recorded(self, run_dir: Path | None) -> Findings:
        if run_dir is not None:
            return read_run(run_dir)
        if self.topic is None:
            raise ModelwardenError(
                "--alert", "nothing says where it was recorded", "Add --run DIR, the folder of the run"
            )
        with _open_bus(self.topic, self.settings.kafka_security) as bus:
            return read_topics(bus, msgspec.structs.replace(self.settings, kafka=self.topic.bootstrap))

    def _build(self) -> Pipeline:
        return build_pipeline(self.settings, live=False, references=self.references)

    def _play(self, what: str, historian: Historian | None = None) -> Replay:
        total, unit = self._size()
        with show_progress(what, total, unit) as tell:
            replay = Replay(
                self._build,
                stopped=self.stop.is_set,
                tell=tell,
                waiting=self.stop.waiting,
                historian=historian,
            )
            if self.topic is None:
                replay.files(self.paths, self.settings.max_message_bytes)
            else:
                with _open_bus(self.topic, self.settings.kafka_security) as bus:
                    replay.topic(bus, self.topic)
        return replay

    def _size(self) -> tuple[int, str]:
        """Return how much there is to read, and in what; 0 if that is not known."""
        if self.topic is not None:
            with _open_bus(self.topic, self.settings.kafka_security, timeout_s=ASK_TIMEOUT_S) as bus:
                ranges = topic_ranges(bus, self.topic).values()
            return sum(max(end - first, 0) for first, end in ranges), "events"
        if any(str(path) == STANDARD for path in self.paths):
            return 0, "bytes"
        return sum(path.stat().st_size for path in self.paths if path.is_file()), "bytes"


@contextmanager
def _open_bus(place: TopicPlace, security: KafkaSecurity, timeout_s: float = 10.0) -> Iterator[KafkaBus]:
    from streams.bus.kafka import KafkaBus  # noqa: PLC0415 - kafka-python is slow to import

    bus = KafkaBus(place.bootstrap, timeout_s=timeout_s, security=security)
    try:
        yield bus
    finally:
        bus.close()
