"""The snapshot protocol on a model of two compacted topics: any crash, any compaction, any zombie."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from streams import snapshot
from streams.errors import StateVersionError
from streams.snapshot import (
    Manifest,
    Plan,
    Shelf,
    SnapshotMeta,
    Stored,
    decode_record,
    encode_record,
    next_generation,
)

NAMES = ("a", "b", "c")


@dataclass
class Topics:
    """The topics `state` and `snapshots` of one partition: (key, value) by offset."""

    logs: dict[str, list[tuple[bytes, bytes | None]]] = field(
        default_factory=lambda: {"state": [], "snapshots": []}
    )
    limit: int = 10**9
    """Records that are stored before the writer is killed."""

    def write(self, topic: str, key: bytes, value: bytes | None) -> int:
        if self.limit == 0:
            raise InterruptedError
        self.limit -= 1
        self.logs[topic].append((key, value))
        return len(self.logs[topic]) - 1

    def compacted(self) -> dict[str, dict[int, tuple[bytes, bytes | None]]]:
        """The most that Kafka may take away: all but the newest record of each key."""
        last = {topic: {key: o for o, (key, _) in enumerate(log)} for topic, log in self.logs.items()}
        return {
            topic: {o: log[o] for o in sorted(last[topic].values()) if log[o][1] is not None}
            for topic, log in self.logs.items()
        }


@dataclass
class Writer:
    """Writes snapshots in the order of the protocol."""

    topics: Topics
    shelf: Shelf

    def write(self, parts: dict[str, bytes], names: set[str], number: int) -> None:
        plan = self.shelf.place({name: len(part) for name, part in parts.items()})
        self.topics.write("snapshots", *encode_record(plan))
        stored = {}
        for name, part in parts.items():
            offsets = [self.topics.write("state", p.key, bytes(p.value)) for p in self.shelf.cut(name, part)]
            stored[name] = Stored(len(part), crc32c(part), tuple(offsets))
        entries = self.shelf.list_parts(stored, names)
        meta = SnapshotMeta(fences={"events": number}, outputs={})
        manifest = Manifest(
            generation=self.shelf.generation, number=self.shelf.number, meta=meta, parts=entries
        )
        self.topics.write("snapshots", *encode_record(manifest))
        for key in self.shelf.complete(entries):
            self.topics.write("state", key, None)


def restore_all(topics: Topics) -> list[tuple[int, dict[str, bytes]]]:
    """Every whole snapshot that stands after compaction, newest first: its number and its parts."""
    there = topics.compacted()
    records = [decode_record(key, value) for key, value in there["snapshots"].values() if value is not None]
    manifests = [record for record in records if isinstance(record, Manifest)]
    found = []
    for manifest in sorted(manifests, key=lambda m: (m.generation, m.number), reverse=True):
        parts = {
            name: b"".join((there["state"].get(offset, (b"", b""))[1] or b"") for offset in entry.offsets)
            for name, entry in manifest.parts.items()
        }
        if all(crc32c(parts[name]) == entry.checksum for name, entry in manifest.parts.items()):
            found.append((manifest.meta.fences["events"], parts))
    return found


step = st.dictionaries(st.sampled_from(NAMES), st.one_of(st.none(), st.binary(max_size=40)), min_size=1)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "PIECE_BYTES", 16)


@given(steps=st.lists(step, min_size=1, max_size=9), new=st.sets(st.integers(1, 8)), data=st.data())
def test_any_crash_and_any_compaction_leave_the_newest_two_complete_snapshots(
    steps: list[dict[str, bytes | None]], new: set[int], data: st.DataObject
) -> None:
    topics = Topics(limit=data.draw(st.integers(0, 120), label="records stored before the kill"))
    writer = Writer(topics, Shelf(1))
    truth: list[tuple[int, dict[str, bytes]]] = []
    state: dict[str, bytes] = {}
    first = 0
    try:
        for number, change in enumerate(steps):
            for name, part in change.items():
                if part is None:
                    state.pop(name, None)
                else:
                    state[name] = part
            if number in new:
                writer, first = Writer(topics, Shelf(writer.shelf.generation + 1)), number
            changed = {
                name: part for name, part in state.items() if change.get(name) == part or number == first
            }
            writer.write(changed, set(state), number)
            truth.append((number, dict(state)))
    except InterruptedError:
        stood = [
            record for key, value in topics.logs["snapshots"] if (record := decode_record(key, value or b""))
        ]
        if any(isinstance(r, Manifest) and r.meta.fences["events"] == number for r in stood):
            truth.append((number, dict(state)))  # killed after the manifest
    assert restore_all(topics)[:2] == truth[::-1][:2]


def test_no_number_of_snapshots_leaves_more_than_three_versions_of_a_part() -> None:
    topics = Topics()
    writer = Writer(topics, Shelf(1))
    for number in range(20):
        writer.write({"a": b"%d" % number * 20}, {"a"}, number)
    assert len(topics.compacted()["state"]) <= 3 * 3


def test_what_is_gone_is_taken_off_once_no_snapshot_needs_it() -> None:
    topics = Topics()
    writer = Writer(topics, Shelf(1))
    writer.write({"a": b"a", "b": b"b" * 40}, {"a", "b"}, 0)
    writer.write({}, {"a"}, 1)
    assert restore_all(topics)[1] == (0, {"a": b"a", "b": b"b" * 40})
    writer.write({}, {"a"}, 2)
    assert [key[13:] for key, _ in topics.compacted()["state"].values()] == [b"a"]


def test_a_plan_names_every_key_of_its_generation() -> None:
    topics = Topics()
    writer = Writer(topics, Shelf(7))
    for number in range(5):
        writer.write(dict.fromkeys(NAMES[: number + 1], b"x" * (10 * number + 1)), set(), number)
    written = {key for key, value in topics.logs["state"] if value is not None}
    records = [decode_record(key, value or b"") for key, value in topics.compacted()["snapshots"].values()]
    (plan,) = [record for record in records if isinstance(record, Plan)]
    assert written <= set(plan.keys())


def test_a_late_snapshot_of_a_stalled_worker_neither_wins_nor_destroys() -> None:
    topics = Topics()
    zombie, mine = Writer(topics, Shelf(4)), Writer(topics, Shelf(5))
    zombie.write({"a": b"old"}, {"a"}, 1)
    mine.write({"a": b"new"}, {"a"}, 2)
    for number in range(3, 8):
        zombie.write({"a": b"late %d" % number}, {"a"}, number)
    assert restore_all(topics)[0] == (2, {"a": b"new"})


@given(data=st.data())
def test_a_flipped_bit_anywhere_in_a_record_is_noticed(data: st.DataObject) -> None:
    manifest = Manifest(generation=1, number=1, meta=SnapshotMeta(fences={}, outputs={}), parts={})
    key, value = encode_record(manifest)
    assert decode_record(key, value) == manifest
    place = data.draw(st.integers(2, len(value) - 1))  # 0 and 1 are the version, tested below
    broken = bytearray(value)
    broken[place] ^= 1 << data.draw(st.integers(0, 7))
    assert "checksum" in str(decode_record(key, bytes(broken)))


def test_another_format_version_is_refused_with_what_to_do() -> None:
    manifest = Manifest(generation=1, number=1, meta=SnapshotMeta(fences={}, outputs={}), parts={})
    key, value = encode_record(manifest)
    with pytest.raises(StateVersionError, match=r"format 99.*Run the version that wrote it"):
        decode_record(key, struct.pack(">H", 99) + value[2:])


def test_generations_rise_and_are_never_shared() -> None:
    first = next_generation(5, 0)
    assert next_generation(6, 0) > first
    assert next_generation(5, first) > first
    assert next_generation(1, first) > first, "the group was made anew"
    assert next_generation(5, 0) != next_generation(5, 0), "two processes of one static member"
    assert next_generation(3, 7) > 7, "written by a version that did not draw lots"
