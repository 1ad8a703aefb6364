"""A TCP proxy in front of the broker that can be slow, deaf or gone."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Any

_CHUNK = 16 * 1024


class Proxy:
    """Passes bytes on from a port of its own to the broker's, on a thread of its own.

    Attributes
    ----------
    bytes_per_s : float or None
        Of each connection and direction; None: as fast as it goes.
    hearing : threading.Event
        While it is not set, connections stay open and nothing passes.
    """

    def __init__(self, port: int, broker_port: int) -> None:
        self._port, self._broker_port = port, broker_port
        self.bytes_per_s: float | None = None
        self.hearing = threading.Event()
        self.hearing.set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result(10)

    async def _serve(self) -> None:
        self._server = await asyncio.start_server(self._join, "127.0.0.1", self._port)

    def close(self) -> None:
        """Stop listening."""
        self._loop.call_soon_threadsafe(self._server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    async def _join(self, reader: Any, writer: Any) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._broker_port)
        except OSError:
            writer.close()
            return
        pipes = [self._pass(reader, far_writer), self._pass(far_reader, writer)]
        done = [asyncio.create_task(pipe) for pipe in pipes]
        await asyncio.wait(done, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.cancel()
        for end in (writer, far_writer):
            end.close()

    async def _pass(self, reader: Any, writer: Any) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while data := await reader.read(_CHUNK):
                if not self.hearing.is_set():
                    await asyncio.to_thread(self.hearing.wait)
                if self.bytes_per_s:
                    await asyncio.sleep(len(data) / self.bytes_per_s)
                writer.write(data)
                await writer.drain()
