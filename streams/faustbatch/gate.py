"""When the next fetch is sent: not before most of the last one is processed.

aiokafka sends a fetch as soon as the one before is taken, and what it brings waits until all of that is
processed: with light traffic, as long as everything else together. Sent when little is left to do, it brings
what has come meanwhile, and comes in time. A worker that is behind is better fed at once.

`close` and `wait` are called in the consumer's thread, `delivered` and `check` in the application's.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

FEW_CHUNKS = 2
"""Chunks left to process when the next fetch is sent: it takes about as long as two small ones."""
MUCH_BYTES = 1024 * 1024
"""Taken at once, the worker is behind."""
LONGEST_S = 0.05
"""A fetch is held back no longer: what is left may be large, or its agent may have stopped."""


class FetchGate:
    """Closed from when a few records are taken until few of their chunks are left.

    Parameters
    ----------
    count_chunks : callable
        Says how many chunks are handed over and not processed yet.
    """

    def __init__(self, count_chunks: Callable[[], int]) -> None:
        self._count_chunks = count_chunks
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open = asyncio.Event()
        self._is_closed = self._is_delivering = False

    def close(self, taken_bytes: int) -> None:
        """Hold the next fetch back if few records were taken."""
        if not 0 < taken_bytes < MUCH_BYTES:
            return
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # an event belongs to the loop that first waits for it
            self._loop, self._open = loop, asyncio.Event()
        self._open.clear()
        self._is_closed = self._is_delivering = True

    async def wait(self) -> None:
        """Return when the next fetch may be sent."""
        if self._is_closed:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._open.wait(), LONGEST_S)
            self._is_closed = False

    def delivered(self) -> None:
        """Note that all that was taken is handed over, or dropped."""
        self._is_delivering = False
        self.check()

    def check(self) -> None:
        """Open if little is left to do."""
        if self._is_closed and not self._is_delivering and self._count_chunks() <= FEW_CHUNKS:
            self._is_closed = False
            if self._loop is not None:
                with suppress(RuntimeError):  # the consumer's loop has ended
                    self._loop.call_soon_threadsafe(self._open.set)
