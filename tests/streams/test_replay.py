"""Replay: the same however it is read, nothing lost, partial when stopped."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec
import pytest

from streams.bus.memory import MemoryBus
from streams.fleet import Historian, evidence_of, survey
from streams.pipeline import Pipeline, build_pipeline
from streams.places import PlaceError, TopicPlace
from streams.replay import BATCH_MESSAGES, KEPT_REJECTIONS, Replay, Replayed, summarise
from streams.samples import load_references, load_sample
from streams.settings import Settings
from streams.simulate import Plan, Simulation

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from streams.bus.base import Message

EVENTS = 6000


@lru_cache(maxsize=1)
def traffic() -> list[tuple[str, bytes]]:
    return list(Simulation(Plan(events=EVENTS, seed=4), load_sample()).events())


def build(settings: Settings | None = None) -> Pipeline:
    return build_pipeline(settings or Settings(), live=False, references=load_references())


def make_replay() -> Replay:
    return Replay(build)


def summary(replay: Replay) -> Replayed:
    return summarise(replay, sources=("x",), models_without_reference=(), mode="observe", policy_version="p")


def as_bytes(replay: Replay) -> bytes:
    return msgspec.json.encode([summary(replay), replay.collected.alerts, replay.collected.decisions])


def write(path: Path, lines: list[bytes]) -> Path:
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def test_files_cut_anywhere_give_what_one_file_gives(tmp_path: Path) -> None:
    lines = [value for _, value in traffic()]
    whole, parts = make_replay(), make_replay()
    whole.files([write(tmp_path / "whole", lines)], 10_000)
    paths = [write(tmp_path / "1", lines[:777]), write(tmp_path / "2", lines[777:])]
    parts.files(paths, 10_000)
    assert as_bytes(whole) == as_bytes(parts)
    found = summary(whole)
    assert found.complete
    assert found.events == EVENTS
    assert found.alerts["critical"] >= 1
    assert not found.commands
    assert sum(found.decisions.values()) == sum(found.withheld.values())
    attacked = {
        label.key
        for label in Simulation(Plan(events=EVENTS, seed=4), load_sample()).labels()
        if label.kind == "attack"
    }
    critical = {row.key for row in found.keys_alerted if row.level == "critical"}
    assert critical
    assert critical <= attacked


def fill(bus: MemoryBus, events: list[tuple[str, bytes]]) -> None:
    for key, value in events:
        bus.send("events", value, key=key.encode())


class PieceBus(MemoryBus):
    """Yields lists of another length than it was asked for, as a broker does."""

    def __init__(self, size: int) -> None:
        super().__init__({"events": 3})
        self._size = size

    def read(
        self,
        topics: Sequence[str],
        *,
        start: Mapping[tuple[str, int], int] | None = None,
        follow: bool = False,
        max_records: int = 4096,
        idle_s: float | None = None,
    ) -> Iterator[list[Message]]:
        size = min(self._size, max_records)
        return super().read(topics, start=start, follow=follow, max_records=size, idle_s=idle_s)


def test_a_topic_gives_the_same_however_its_partitions_are_read() -> None:
    results = []
    for size in (BATCH_MESSAGES, 61):
        bus = PieceBus(size)
        fill(bus, traffic())
        replay = make_replay()
        replay.topic(bus, TopicPlace("memory", "events"))
        assert summary(replay).events == EVENTS
        results.append(as_bytes(replay))
    assert results[0] == results[1]


@pytest.mark.parametrize(("first", "last"), [(0, 100), (100, 250), (900, None), (0, 1)])
def test_a_range_takes_these_offsets_of_every_partition(first: int, last: int | None) -> None:
    bus = MemoryBus({"events": 2})
    for number, (_, value) in enumerate(traffic()[:2000]):
        bus.send("events", value, partition=number % 2)
    replay = make_replay()
    replay.topic(bus, TopicPlace("memory", "events", first, last))
    assert replay.complete
    assert summary(replay).events == 2 * ((last or 1000) - first)


def test_a_range_behind_the_end_is_an_error() -> None:
    bus = MemoryBus({"events": 1})
    fill(bus, traffic()[:10])
    with pytest.raises(PlaceError, match="ends before, at 10"):
        make_replay().topic(bus, TopicPlace("memory", "events", 10))


def test_bad_lines_are_counted_by_reason_and_the_good_kept(tmp_path: Path) -> None:
    lines = [value for _, value in traffic()[:3000]]
    bad = [b"not json", b"", b'{"schema":2}', b"x" * 50_000]
    mixed = [line for number, good in enumerate(lines) for line in (good, bad[number % 4])]
    limited = Settings(max_message_bytes=20_000)
    replay = Replay(lambda: build(limited))
    replay.files([write(tmp_path / "mixed", mixed)], limited.max_message_bytes)
    found = summary(replay)
    assert found.events == 3000
    assert found.rejected == {"empty": 750, "not_json": 750, "too_large": 750, "unknown_schema": 750}
    letters = replay.collected.dead_letters
    assert len(letters) == KEPT_REJECTIONS
    assert letters[0].offset == 1


def test_stopped_it_is_partial_and_says_so(tmp_path: Path) -> None:
    asked = iter([False, True, True])
    replay = Replay(build, stopped=lambda: next(asked))
    replay.files([write(tmp_path / "x", [value for _, value in traffic()])], 10_000)
    found = summary(replay)
    assert not found.complete
    assert 0 < found.events <= BATCH_MESSAGES


def test_a_time_range_takes_what_the_topic_was_given_then() -> None:
    bus = MemoryBus({"events": 2})
    for number, (_, value) in enumerate(traffic()[:1000]):
        bus.send("events", value, partition=number % 2, time_ms=1_000_000 + number)
    replay = make_replay()
    replay.topic(bus, TopicPlace("memory", "events", first_ms=1_000_100, last_ms=1_000_300))
    assert summary(replay).events == 200
    with pytest.raises(PlaceError, match="no record in that time"):
        make_replay().topic(bus, TopicPlace("memory", "events", first_ms=9_000_000))


def test_a_historian_sees_its_keys_rise_and_changes_nothing(tmp_path: Path) -> None:
    lines = [value for _, value in traffic()]
    path = write(tmp_path / "events", lines)
    plain = make_replay()
    plain.files([path], 10_000)
    found = {(alert.key, alert.model): alert for alert in plain.collected.alerts}
    historian = Historian(found)
    watched = Replay(build, historian=historian)
    watched.files([path], 10_000)
    assert as_bytes(watched) == as_bytes(plain)
    history = {(one.key, one.model): one.points for one in historian.history()}
    assert history.keys() == found.keys()
    for place, points in history.items():
        queries = [point.query_count for point in points]
        evidence = [point.evidence for point in points]
        assert queries == sorted(set(queries))
        assert evidence == sorted(evidence), "what is kept is the largest so far"
        assert evidence[-1] >= evidence_of(found[place].key_p_value) - 1e-3
        assert queries[: min(16, len(queries))] == list(range(1, min(16, len(queries)) + 1))
    states = survey(plain.engines)
    assert sum(fleet.keys for fleet in states.fleet) == len(states.keys) == plain.key_count
    assert all(sum(fleet.evidence_counts) == fleet.keys for fleet in states.fleet)
