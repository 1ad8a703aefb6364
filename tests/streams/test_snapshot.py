from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.errors import StateVersionError
from streams.snapshot import Assembler, Snapshot, SnapshotMeta, cut

PIECE = 64


def make(generation: int, number: int, blob: bytes) -> Snapshot:
    meta = SnapshotMeta(fences={"events": 10 * number}, outputs={"alerts": number})
    return Snapshot(partition=3, generation=generation, number=number, meta=meta, blob=blob)


def messages(snapshot: Snapshot) -> list[tuple[bytes, bytes]]:
    return list(cut(snapshot, snapshot.meta.fences["events"], PIECE))


def assemble(log: list[tuple[bytes, bytes | None]]) -> tuple[list[Snapshot], Assembler]:
    assembler = Assembler(3)
    for key, value in log:
        assembler.add(key, value)
    return list(assembler.snapshots()), assembler


def compact(log: list[tuple[bytes, bytes | None]], upto: int) -> list[tuple[bytes, bytes | None]]:
    """What Kafka may leave of a log: of the records before `upto`, only the newest of each key."""
    last = {key: i for i, (key, _) in enumerate(log)}
    return [record for i, record in enumerate(log) if i >= upto or last[record[0]] == i]


@given(
    blobs=st.lists(st.binary(max_size=400), min_size=1, max_size=6),
    generation_ends=st.sets(st.integers(0, 5)),
    data=st.data(),
)
def test_any_crash_and_any_compaction_leaves_the_newest_whole_snapshot(
    blobs: list[bytes], generation_ends: set[int], data: st.DataObject
) -> None:
    written: list[Snapshot] = []
    generation, number = 1, 0
    for i, blob in enumerate(blobs):
        number += 1
        written.append(make(generation, number, blob))
        if i in generation_ends:
            generation, number = generation + 1, 0
    log: list[tuple[bytes, bytes | None]] = [m for s in written for m in messages(s)]
    whole_ends: list[int] = []
    for snapshot in written:
        whole_ends.append((whole_ends[-1] if whole_ends else 0) + len(messages(snapshot)))
    crash = data.draw(st.integers(0, len(log)), label="messages stored before the crash")
    compacted = compact(log[:crash], data.draw(st.integers(0, crash), label="compacted up to"))
    found, _ = assemble(compacted)
    complete = [s for s, end in zip(written, whole_ends, strict=True) if end <= crash]
    assert found[:1] == complete[-1:]


@given(blob=st.binary(min_size=100, max_size=400), data=st.data())
def test_a_flipped_bit_anywhere_falls_back_to_the_older_snapshot_and_says_why(
    blob: bytes, data: st.DataObject
) -> None:
    older, newer = make(1, 1, b"older" * 30), make(1, 2, blob)
    log: list[tuple[bytes, bytes | None]] = [*messages(older), *messages(newer)]
    which = data.draw(st.integers(len(messages(older)), len(log) - 1))
    key, value = log[which]
    assert value is not None
    place = data.draw(st.integers(2, len(value) - 1))  # 0 and 1 are the version, tested below
    broken = bytearray(value)
    broken[place] ^= 1 << data.draw(st.integers(0, 7))
    log[which] = (key, bytes(broken))
    found, assembler = assemble(log)
    assert [s.number for s in found] == [1]
    assert found[0] == older
    assert any("checksum" in fault for fault in assembler.faults)


def test_another_format_version_is_refused_with_what_to_do() -> None:
    (key, value), *_ = messages(make(1, 1, b"x"))
    with pytest.raises(StateVersionError, match=r"format 99.*Run the version that wrote it"):
        Assembler(3).add(key, struct.pack(">H", 99) + value[2:])


def test_a_late_snapshot_of_an_older_generation_does_not_win() -> None:
    mine, zombie = make(5, 1, b"mine"), make(4, 9, b"zombie" * 40)
    found, assembler = assemble([*messages(mine), *messages(zombie)])
    assert [s.generation for s in found] == [5, 4]
    assert assembler.highest_generation == 5


def test_removed_generations_leave_nothing_behind() -> None:
    older, newer = make(1, 1, b"older" * 60), make(2, 1, b"newer" * 60)
    tombstones: list[tuple[bytes, bytes | None]] = [(key, None) for key, _ in messages(older)]
    found, assembler = assemble([*messages(older), *messages(newer), *tombstones])
    assert found == [newer]
    assert set(assembler.keys) == {key for key, _ in messages(newer)}
