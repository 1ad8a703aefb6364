"""Responses received straight into the buffer that the fetch is read from.

asyncio's streams copy what comes off a socket into one growing buffer and out of it again, and aiokafka
copies each partition's part once more: half the cost of an event without detection. Here the socket (or TLS)
writes into memory for the response alone, and a fetch's parts are views of it; memory that nobody looks at
any more is used again (`streams.faustbatch.frames`).

A connection is opened, and its password checked, by aiokafka's own protocol; only then, between two
responses, is that replaced. Its reader stays: it never gets a byte more, but how the connection ends is told
to it, so that aiokafka closes connections and fails requests as ever.
"""

from __future__ import annotations

import asyncio
import struct
import weakref
from types import FunctionType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from aiokafka.conn import AIOKafkaConnection
from aiokafka.protocol.fetch import FetchRequest

from streams.faustbatch.frames import FramePool

if TYPE_CHECKING:
    from aiokafka.client import AIOKafkaClient

_LENGTH = struct.Struct(">i")
_SMALLEST_VIEW_BYTES = 1024
"""What is smaller is copied: names, which must be bytes (249 at most), and what is not worth a view."""


class FrameReader:
    """Stands in for BytesIO: the fields of a response, large ones as views of it."""

    def __init__(self, frame: memoryview) -> None:
        self._frame = frame
        self._at = 0

    def read(self, size: int) -> bytes | memoryview:
        """Return the next bytes, fewer at the end."""
        part = self._frame[self._at : self._at + size]
        self._at += len(part)
        return part if size >= _SMALLEST_VIEW_BYTES else bytes(part)


_handle_frame = FunctionType(
    AIOKafkaConnection._handle_frame.__code__,  # noqa: SLF001 - shapes.py checks it
    {**AIOKafkaConnection._handle_frame.__globals__, "io": SimpleNamespace(BytesIO=FrameReader)},  # noqa: SLF001 - same
)


class FrameReceiver(asyncio.BufferedProtocol):
    """Receives one response after the other, each into a buffer of its own, with `PADDING` behind it.

    Parameters
    ----------
    connection : AIOKafkaConnection
        Open, and not waiting for anything.
    """

    def __init__(self, connection: AIOKafkaConnection) -> None:
        self._connection = weakref.ref(connection)  # so that one that is forgotten can be noticed
        self._stock: Any = connection._protocol  # noqa: SLF001 - same
        self._reader: asyncio.StreamReader = connection._reader  # noqa: SLF001 - same
        self._frames = FramePool()
        self._length = memoryview(bytearray(_LENGTH.size))
        self._space, self._filled = self._length, 0

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Return where the next bytes belong."""
        return self._space[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Count bytes that came; hand a whole response over."""
        self._filled += nbytes
        if self._filled < len(self._space):
            return
        try:
            self._go_on()
        except Exception as error:  # noqa: BLE001 - as aiokafka: whatever it is, the connection is closed, and it is told
            self._space, self._filled = self._length, 0
            self._reader.set_exception(error)

    def _go_on(self) -> None:
        """Turn from a length to its response, and from a response to the next length."""
        if self._space is self._length:
            size = _LENGTH.unpack(self._length)[0]
            if size < 0:
                raise ValueError(f"a broker sent a response of {size} bytes")
            self._space, self._filled = self._frames.take(size), 0
        if self._filled == len(self._space):
            frame, self._space, self._filled = self._space, self._length, 0
            self._hand_over(frame)

    def _hand_over(self, frame: memoryview) -> None:
        connection: Any = self._connection()
        if connection is None or connection._reader is None:  # noqa: SLF001 - it was closed
            return
        _, request, _ = connection._requests[0]  # noqa: SLF001 - shapes.py checks it
        if getattr(request, "API_KEY", None) == FetchRequest.API_KEY:
            _handle_frame(connection, frame)
        else:
            connection._handle_frame(bytes(frame))  # noqa: SLF001 - same

    def eof_received(self) -> bool | None:
        """Pass it on."""
        result: bool | None = self._stock.eof_received()
        return result

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on: requests fail, and aiokafka connects again."""
        self._stock.connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass it on."""
        self._stock.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._stock.resume_writing()


def receive_frames(client: AIOKafkaClient) -> None:
    """Let a client's connections receive into frames from now on. Fetches are then memoryviews."""
    stock = client._get_conn  # noqa: SLF001 - shapes.py checks it

    async def get_connection(node: Any, **options: Any) -> Any:
        connection = await stock(node, **options)
        if connection is not None and connection.connected():
            _take_over(connection)
        return connection

    client._get_conn = get_connection  # noqa: SLF001 - same


def _take_over(connection: Any) -> None:
    """Replace a connection's protocol, unless that is done or a response is under way."""
    transport = connection._writer.transport  # noqa: SLF001 - shapes.py checks it
    is_quiet = not (connection._requests or connection._reader._buffer)  # noqa: SLF001 - same
    if is_quiet and transport.get_protocol() is connection._protocol:  # noqa: SLF001 - same
        transport.set_protocol(FrameReceiver(connection))
