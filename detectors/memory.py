"""Arrays that are reserved whole and take memory only where they are written to."""

from __future__ import annotations

import mmap
import sys
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

_NO_RESERVE = 0x4000 if sys.platform == "linux" else 0
"""`MAP_NORESERVE`, which Python's mmap has no name for before 3.13."""


def reserve(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return zeros whose memory the system gives page by page, at the first write, however large the array.

    So nothing is ever copied to grow, and what is not written to costs nothing.
    """
    count = prod(shape)
    size = max(count * np.dtype(dtype).itemsize, 1)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
    return np.frombuffer(mmap.mmap(-1, size, flags=flags), dtype, count).reshape(shape)
