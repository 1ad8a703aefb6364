"""Responses received into frames: what aiokafka's own reader makes of the same bytes, however they come."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from aiokafka import conn, errors
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection
from aiokafka.protocol.fetch import FetchRequest_v4, FetchResponse_v4
from aiokafka.protocol.metadata import MetadataRequest_v0, MetadataResponse_v0
from hypothesis import given, settings
from hypothesis import strategies as st
from test_unpack import make_batch, records

from streams.faustbatch import shapes
from streams.faustbatch.receive import FrameReceiver, receive_frames
from streams.faustbatch.recordbatch import _read_headers, read_records
from streams.faustbatch.unpack import unpack_fetch
from streams.recordblock import PADDING

if TYPE_CHECKING:
    from collections.abc import Callable

FETCH = FetchRequest_v4(-1, 0, 0, 0, 0, [])
METADATA = MetadataRequest_v0([])
LARGEST = 2**31 - 1

parts = st.lists(st.tuples(st.integers(0, 3), st.none() | st.binary(max_size=4000)), max_size=3)
fetches = st.lists(st.tuples(st.text(max_size=9), parts), max_size=3)


class Lost(Exception):  # noqa: N818 - a test's
    """A connection that broke."""


class _Transport(asyncio.Transport):
    """A socket that a test feeds: it reads as asyncio's selector transport does."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol: Any = None
        self.is_closed = False

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def get_protocol(self) -> Any:
        return self.protocol

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def write(self, data: Any) -> None: ...

    def close(self) -> None:
        self.is_closed = True

    def feed(self, data: bytes) -> None:
        """Deliver bytes that came in one piece, as far as the connection still takes them."""
        while data and not self.is_closed:
            if isinstance(self.protocol, asyncio.BufferedProtocol):
                space: Any = self.protocol.get_buffer(-1)
                count = min(len(space), len(data))
                assert count, "asyncio refuses an empty buffer"
                space[:count] = data[:count]
                self.protocol.buffer_updated(count)
            else:
                count = len(data)
                self.protocol.data_received(data)
            data = data[count:]


async def connect(*, frames: bool) -> tuple[AIOKafkaConnection, _Transport]:
    """A connection that is open, without a broker; its protocol replaced or as it was."""
    connection: Any = AIOKafkaConnection("broker", 9092)
    loop = asyncio.get_running_loop()
    connection._closed_fut = loop.create_future()
    reader = asyncio.StreamReader(limit=conn.READER_LIMIT, loop=loop)
    protocol = conn.AIOKafkaProtocol(connection._closed_fut, reader, loop=loop)
    transport = _Transport()
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    connection._reader, connection._protocol = reader, protocol
    connection._writer = asyncio.StreamWriter(transport, protocol, reader, loop)
    connection._read_task = connection._create_reader_task()
    connection._versions = {FETCH.API_KEY: (4, 4), METADATA.API_KEY: (0, 0)}
    await asyncio.sleep(0)
    if frames:
        transport.set_protocol(FrameReceiver(connection))
    return connection, transport


async def outcomes(
    stream: bytes, cuts: list[int], requests: list[Any], *, frames: bool, end: bool
) -> list[Any]:
    """Return what becomes of requests when a broker sends a stream of bytes, cut anyhow, and maybe closes."""
    connection, transport = await connect(frames=frames)
    waiting: list[Any] = []
    for number, request in enumerate(requests):
        future = asyncio.get_running_loop().create_future()
        connection._requests.append((number, request, future))
        waiting.append(future)
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    for start, stop in itertools.pairwise(edges):
        transport.feed(stream[start:stop])
        await turns()
    if end:
        with contextlib.suppress(AttributeError):
            transport.protocol.eof_received()
        transport.protocol.connection_lost(None)
    await turns()
    told = [tell(future) for future in waiting]
    told.append(connection.connected())
    connection.close()
    await turns()
    return told


async def turns() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


def tell(future: asyncio.Future[Any]) -> Any:
    if not future.done():
        return "waiting"
    error = future.exception()
    return type(error) if error is not None else plain(future.result())


def plain(value: Any) -> Any:
    """Views as the bytes that they show."""
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if hasattr(value, "SCHEMA"):
        return [type(value), plain(list(value.__dict__.values()))]
    return bytes(value) if isinstance(value, memoryview) else value


def fetch_response(number: int, topics: list[Any]) -> bytes:
    body = FetchResponse_v4(
        0, [(topic, [(p, 0, 9, 9, [(1, 2)], data) for p, data in found]) for topic, found in topics]
    ).encode()
    return frame(struct.pack(">i", number) + body)


def metadata_response(number: int, _topics: Any) -> bytes:
    return frame(struct.pack(">i", number) + MetadataResponse_v0([(1, "host" * 400, 9092)], []).encode())


def frame(body: bytes) -> bytes:
    return struct.pack(">i", len(body)) + body


answers = st.lists(st.tuples(st.booleans(), fetches), min_size=1, max_size=4)


@settings(max_examples=150)
@given(answers, st.lists(st.integers(0, 2**20), max_size=12), st.data())
def test_the_same_as_the_stock_reader_however_the_bytes_are_cut(
    found: list[tuple[bool, Any]], cuts: list[int], data: st.DataObject
) -> None:
    make: dict[bool, Callable[[int, Any], bytes]] = {True: fetch_response, False: metadata_response}
    stream = b"".join(make[is_fetch](number, topics) for number, (is_fetch, topics) in enumerate(found))
    sent = data.draw(st.sampled_from([len(stream), data.draw(st.integers(0, len(stream)))]))
    requests = [FETCH if is_fetch else METADATA for is_fetch, _ in found]
    end = data.draw(st.booleans())

    async def both() -> list[Any]:
        return [
            await outcomes(stream[:sent], cuts, requests, frames=frames, end=end) for frames in (False, True)
        ]

    stock, ours = asyncio.run(both())
    assert ours == stock
    if sent == len(stream):
        assert "waiting" not in ours


@settings(max_examples=150)
@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=4))
def test_any_bytes_end_as_with_the_stock_reader(stream: bytes, cuts: list[int]) -> None:
    async def both() -> list[Any]:
        return [
            await outcomes(stream, cuts, [FETCH, METADATA], frames=frames, end=True)
            for frames in (False, True)
        ]

    stock, ours = asyncio.run(both())
    assert ours == stock


@pytest.mark.parametrize("size", [-1, -(2**31), 0])
def test_an_impossible_length_closes_the_connection(size: int) -> None:
    stream = struct.pack(">i", size) + bytes(100)
    assert asyncio.run(outcomes(stream, [], [FETCH], frames=True, end=False)) == [
        errors.KafkaConnectionError,
        False,
    ]


def test_a_huge_length_takes_no_memory_for_what_never_comes() -> None:
    async def run() -> None:
        connection, transport = await connect(frames=True)
        before = resident_bytes()
        transport.feed(struct.pack(">i", LARGEST) + bytes(100_000))
        assert resident_bytes() - before < 100 * 2**20
        transport.protocol.connection_lost(Lost())
        await turns()
        assert not connection.connected()

    asyncio.run(run())


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_a_fetch_is_a_view_and_becomes_the_blocks_data_without_a_copy() -> None:
    found: list[Any] = [(0, b"k", bytes([n]) * 900, []) for n in range(9)]

    async def run() -> Any:
        connection, transport = await connect(frames=True)
        future = asyncio.get_running_loop().create_future()
        connection._requests.append((7, FETCH, future))
        transport.feed(
            fetch_response(7, [("events", [(0, make_batch(0, found)), (1, make_batch(0, found))])])
        )
        response = future.result()
        connection.close()
        return response

    parts = [part[-1] for part in asyncio.run(run()).topics[0][1]]
    blocks: list[Any] = [unpack_fetch("events", n, part, 0).block for n, part in enumerate(parts)]
    for part, block in zip(parts, blocks, strict=True):
        assert isinstance(part, memoryview)
        assert np.shares_memory(block.data, np.frombuffer(part, np.uint8))
        assert len(block.data) == len(part) + len(PADDING)
        assert not block.data.flags.writeable
        assert [message.value for message in block] == [value for _, _, value, _ in found]


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.lists(records, min_size=1, max_size=5), st.sampled_from([0, 0, 0, 3])),
        min_size=1,
        max_size=4,
    )
)
def test_a_block_of_a_view_is_that_of_the_bytes(batches: list[Any]) -> None:
    data, offset = b"", 0
    for found, codec in batches:
        data += make_batch(offset, found, codec)
        offset += len(found)
    whole = np.frombuffer(b"before" + data + bytes(300), np.uint8)
    view = whole.data[6 : 6 + len(data)]
    copied, kept = unpack_fetch("events", 3, data, 0), unpack_fetch("events", 3, view, 0)
    assert list(kept.block) == list(copied.block)  # type: ignore[arg-type] # there are records
    assert kept.next_offset == copied.next_offset
    # A slice that is passed on must not depend on where in the response it lies.
    pieces = [[list(one) for one in made.block.cut(2)] for made in (copied, kept)]  # type: ignore[union-attr]
    assert pieces[0] == pieces[1]


def test_a_view_needs_no_kernel_that_bytes_do_not_need() -> None:
    data = make_batch(0, [(0, b"k", bytes(2000), [])])
    unpack_fetch("events", 0, data, 0)
    before = [len(kernel.signatures) for kernel in (_read_headers, read_records)]
    response = np.frombuffer(data + PADDING, np.uint8).copy()
    unpack_fetch("events", 0, response.data[: len(data)], 0)
    assert [len(kernel.signatures) for kernel in (_read_headers, read_records)] == before


def test_a_small_part_does_not_keep_a_large_response() -> None:
    data = make_batch(0, [(0, b"k", bytes(2000), [])])
    response = np.zeros(100 * len(data), np.uint8)
    response[: len(data)] = np.frombuffer(data, np.uint8)
    block = unpack_fetch("events", 0, response.data[: len(data)], 0).block
    assert block is not None
    assert not np.shares_memory(block.data, response)


def test_a_connection_is_taken_over_between_two_responses_only() -> None:
    async def run() -> None:
        connection, transport = await connect(frames=False)
        client: Any = AIOKafkaClient(bootstrap_servers="broker:9092")
        client._conns[1, 0] = connection
        receive_frames(client)
        future = asyncio.get_running_loop().create_future()
        connection._requests.append((0, FETCH, future))
        assert await client._get_conn(1, group=0) is connection
        assert transport.protocol is connection._protocol
        transport.feed(fetch_response(0, []))
        await future
        assert await client._get_conn(1, group=0) is connection
        receiver = transport.protocol
        assert isinstance(receiver, FrameReceiver)
        assert await client._get_conn(1, group=0) is connection
        assert transport.protocol is receiver
        connection.close()

    asyncio.run(run())


def test_another_shape_is_told_and_the_stock_reader_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shapes.has_receive_shape()
    told: list[dict[str, Any]] = []

    class _Log:
        def warning(self, event: str, **fields: Any) -> None:
            told.append({"event": event, **fields})

    monkeypatch.setattr(shapes, "_log", _Log())
    monkeypatch.setitem(shapes.RECEIVE_NAMES, AIOKafkaConnection._read, {"read_frame"})
    assert not shapes.has_receive_shape()
    assert told[0]["event"] == "responses_copied"
    assert told[0]["other"] == ["AIOKafkaConnection._read"]
