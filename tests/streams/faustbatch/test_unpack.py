"""Undecoded batches: what aiokafka's own reader finds in them, and any bytes at all."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.faustbatch.recordbatch import read_headers
from streams.faustbatch.unpack import UNPACKED_LIMIT_BYTES, unpack_fetch
from streams.recordblock import RecordBlock

TOPIC = "events"
CODECS = range(5)
Record = tuple[int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]

records = st.tuples(
    st.integers(0, 2**40),
    st.none() | st.binary(max_size=40),
    st.none() | st.binary(max_size=300),
    st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=200)), max_size=3),
)


def make_batch(  # noqa: PLR0917
    base_offset: int,
    found: list[Record],
    codec: int = 0,
    producer_id: int = -1,
    attributes: int = 0,
    keep: set[int] | None = None,
) -> bytes:
    """A batch as a broker sends it; with `keep`, compacted to those records."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=codec,
        is_transactional=int(bool(attributes & 16)),
        producer_id=producer_id,
        producer_epoch=0 if producer_id >= 0 else -1,
        base_sequence=0 if producer_id >= 0 else -1,
        batch_size=10**9,
    )
    for at, (time_ms, key, value, headers) in enumerate(found):
        if keep is None or at in keep:
            builder.append(at, timestamp=time_ms, key=key, value=value, headers=headers)
    data = bytearray(builder.build())
    struct.pack_into(">q", data, 0, base_offset)
    struct.pack_into(">i", data, 23, len(found) - 1)
    old = struct.unpack_from(">H", data, 21)[0]
    struct.pack_into(">H", data, 21, old | attributes)
    return sign(data)


def sign(data: bytearray) -> bytes:
    """Set the checksum right again."""
    struct.pack_into(">I", data, 17, crc32c(bytes(data[21:])))
    return bytes(data)


def control(base_offset: int, producer_id: int, kind: int) -> bytes:
    """The end of a transaction: 0 aborts, 1 commits."""
    marker: Record = (0, struct.pack(">hh", 0, kind), b"\0" * 6, [])
    return make_batch(base_offset, [marker], producer_id=producer_id, attributes=16 | 32)


def read(data: bytes, first: int = 0, aborted: Any = (), suspect: int | None = None) -> list[Any]:
    found = unpack_fetch(TOPIC, 3, data, first, aborted=aborted, suspect=suspect)
    return [] if found.block is None else list(found.block)


def judge(data: bytes, first: int = 0, aborted: Any = ()) -> tuple[list[Any], int]:
    """What aiokafka's own reader makes of the same bytes."""
    place = TopicPartition(TOPIC, 3)
    found = PartitionRecords(
        place,
        MemoryRecords(data),
        list(aborted),
        first,
        None,
        None,
        check_crcs=True,
        isolation_level=READ_COMMITTED,
    )
    return list(found), found.next_fetch_offset


def assert_same(data: bytes, first: int = 0, aborted: Any = ()) -> None:
    expected, next_offset = judge(data, first, aborted)
    unpacked = unpack_fetch(TOPIC, 3, data, first, aborted=aborted)
    assert unpacked.next_offset == next_offset
    found = [] if unpacked.block is None else list(unpacked.block)
    assert [(m.offset, m.time_ms, m.key, m.value) for m in found] == [
        (r.offset, r.timestamp, r.key, r.value) for r in expected
    ]
    assert [m.headers for m in found] == [
        tuple((name, value or b"") for name, value in r.headers) for r in expected
    ]
    assert {m.partition for m in found} <= {3}
    if unpacked.block is not None:
        assert unpacked.block.last == next_offset - 1


@given(
    st.lists(st.tuples(st.lists(records, min_size=1, max_size=5), st.sampled_from(CODECS)), max_size=5),
    st.data(),
)
@settings(max_examples=100, deadline=None)
def test_blocks_hold_what_aiokafka_reads(
    batches: list[tuple[list[Record], int]], data: st.DataObject
) -> None:
    offset, fetch = 7, b""
    for found, codec in batches:
        keep = data.draw(st.none() | st.sets(st.integers(0, len(found) - 1)))
        append_time = data.draw(st.sampled_from([0, 8]))
        packed = codec if keep != set() else 0  # aiokafka cannot unpack what it packs of nothing
        fetch += make_batch(offset, found, packed, attributes=append_time, keep=keep)
        offset += len(found) + data.draw(st.integers(0, 3))
    cut = data.draw(st.integers(0, 80))
    fetch = fetch[: len(fetch) - cut]  # the last batch of a fetch may be cut off
    headers = read_headers(np.frombuffer(fetch, np.uint8))
    first = data.draw(st.integers(7, headers[0].last_offset if headers else 7))  # it lies in the first batch
    assert_same(fetch, first)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_aborted_transactions_are_not_seen(data: st.DataObject) -> None:
    offset, fetch, aborted = 0, b"", []
    for producer in data.draw(st.lists(st.integers(1, 3), max_size=6)):
        first, commits = offset, data.draw(st.booleans())
        for _ in range(data.draw(st.integers(0, 2))):
            fetch += make_batch(offset, [(0, b"k", b"v%d" % offset, [])], producer_id=producer, attributes=16)
            offset += 1
            fetch += make_batch(offset, [(0, b"k", b"plain", [])])
            offset += 1
        if not commits and offset > first:
            aborted.append((producer, first))
        fetch += control(offset, producer, int(commits))
        offset += 1
    assert_same(fetch, 0, aborted)


def test_a_fetch_of_nothing_but_markers_moves_on() -> None:
    unpacked = unpack_fetch(TOPIC, 0, control(5, 1, 1), 5)
    assert unpacked.next_offset == 6
    assert unpacked.block is not None
    assert (len(unpacked.block), unpacked.block.last) == (0, 5)


@pytest.mark.parametrize("codec", CODECS)
def test_a_damaged_batch_is_fetched_again_then_given_up(codec: int) -> None:
    record: Record = (1, b"k", b"v" * 100, [])
    good = [make_batch(at, [record] * 10, codec) for at in (0, 20)]
    bad = bytearray(make_batch(10, [record] * 10, codec))
    bad[-1] ^= 1
    first = unpack_fetch(TOPIC, 0, good[0] + bytes(bad) + good[1], 0)
    assert (first.next_offset, first.suspect) == (10, 10)
    assert first.block is not None
    assert len(first.block) == 10
    again = unpack_fetch(TOPIC, 0, bytes(bad) + good[1], 10, suspect=10)
    assert (again.next_offset, again.suspect) == (30, None)
    assert again.block is not None
    assert [m.offset for m in again.block] == [10, *range(20, 30)]
    assert again.block[0].value is None
    assert again.block.faults == {10: "the batch of offsets 10 to 19: its checksum is wrong"}


@pytest.mark.parametrize("codec", [1, 3, 4])
def test_a_batch_that_unpacks_to_gigabytes_is_given_up(codec: int) -> None:
    bomb = make_batch(0, [(0, None, bytes(UNPACKED_LIMIT_BYTES + 1), [])], codec)
    assert len(bomb) < 1_000_000
    (row,) = unpack_fetch(TOPIC, 0, bomb, 0, suspect=0).block or []
    assert row.value is None


def test_much_in_small_batches_is_taken_in_turns() -> None:
    batches = [make_batch(at, [(0, None, bytes(30_000_000), [])], 4) for at in range(4)]
    unpacked = unpack_fetch(TOPIC, 0, b"".join(batches), 0)
    assert unpacked.next_offset == 2
    assert unpacked.suspect is None


@given(
    st.lists(records, min_size=1, max_size=4),
    st.sampled_from(CODECS),
    st.sampled_from(["right", "wrong"]),
    st.data(),
)
@settings(max_examples=500, deadline=None)
def test_any_bytes_with_a_right_checksum_never_raise(
    found: list[Record], codec: int, checksum: str, data: st.DataObject
) -> None:
    batch = bytearray(make_batch(3, found, codec))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(batch) - 1))
        batch[at] = data.draw(st.integers(0, 255))
    mutated = sign(batch) if checksum == "right" else bytes(batch)
    behind = make_batch(3 + len(found), [(0, b"k", b"v", [])])
    unpacked = unpack_fetch(TOPIC, 0, mutated + behind, 3, suspect=3)
    assert unpacked.next_offset >= 3
    offsets = [message.offset for message in unpacked.block or []]
    assert offsets == sorted(set(offsets))
    assert all(3 <= offset < unpacked.next_offset for offset in offsets)


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_no_bytes_raise(data: bytes) -> None:
    unpack_fetch(TOPIC, 0, data, 0)
    unpack_fetch(TOPIC, 0, data, 0, suspect=0)


@given(st.lists(st.sampled_from([0, 480, 4096, 4097, 98_000, 2_000_000]), min_size=1, max_size=60))
@settings(max_examples=50, deadline=None)
def test_a_large_record_counts_as_the_events_of_a_micro_batch(sizes: list[int]) -> None:
    found: list[Record] = [(0, None, bytes(size), []) for size in sizes]
    block = unpack_fetch(TOPIC, 0, make_batch(0, found), 0).block
    assert isinstance(block, RecordBlock)
    pieces = list(block.cut(1000))
    assert [message for piece in pieces for message in piece] == list(block)
    assert pieces[-1].last == block.last
    for piece in pieces:
        events = [1 if len(m.value or b"") <= 4096 else len(m.value or b"") // 192 for m in piece]
        assert len(events) == 1 or sum(events) <= 1000


def test_pieces_of_a_block_reach_its_end() -> None:
    found: list[Record] = [(0, None, b"v" * 100, [])] * 100
    block = unpack_fetch(TOPIC, 0, make_batch(0, found) + control(100, 1, 1), 0).block
    assert isinstance(block, RecordBlock)
    pieces = list(block.cut(30))
    assert [len(piece) for piece in pieces] == [25, 25, 25, 25]
    assert [piece.last for piece in pieces] == [24, 49, 74, 100]
    assert block.after(97)[0].offset == 98
    assert len(block.after(99)) == 0
