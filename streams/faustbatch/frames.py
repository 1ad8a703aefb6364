"""Memory for responses, used again once nobody looks at what it held.

The kernel clears every page of memory that is new to a process: of a fetch of many MiB that costs as much as
receiving it. Here the memory of the last few large responses is kept. A response is read through views of
it; while one of them is there, whoever holds it, the memory is not given out again.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

from streams.recordblock import PADDING

if TYPE_CHECKING:
    from numpy.typing import NDArray

KEPT = 3
"""Responses that are on their way through a worker at once: received, waiting, processed."""
_SMALLEST_BYTES = 256 * 1024
"""The allocator has room for less at hand."""
_UNSEEN = 2
"""References to memory that no view is of: the pool's own, and the question's."""


class FramePool:
    """Gives out frames: room for one response each, with `PADDING` behind it."""

    def __init__(self) -> None:
        self._kept: list[NDArray[np.uint8]] = []

    def take(self, size: int) -> memoryview:
        """Return room for so many bytes, of any content; memory is only taken as it is written to."""
        wanted = size + len(PADDING)
        memory = np.empty(wanted, np.uint8) if wanted < _SMALLEST_BYTES else self._reuse(wanted)
        memory[size:wanted] = 0
        return memory.data[:size]

    def _reuse(self, wanted: int) -> NDArray[np.uint8]:
        """Return kept memory that is large enough and that no view is of, or new memory."""
        idle = [k for k in range(len(self._kept)) if sys.getrefcount(self._kept[k]) == _UNSEEN]
        fitting = [k for k in idle if len(self._kept[k]) >= wanted]
        if fitting:
            return self._kept[min(fitting, key=lambda k: len(self._kept[k]))]
        for k in reversed(idle[: max(len(self._kept) + 1 - KEPT, 0)]):
            del self._kept[k]
        memory = np.empty(wanted, np.uint8)
        if len(self._kept) < KEPT:
            self._kept.append(memory)
        return memory
