"""Where lines end, in a padded buffer: eight bytes at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from detectors.kernelcache import njit
from streams.formats.words import HIGHS, load8, trailing_zeros

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LEAST_LINE_BYTES = 64
"""Room is made for lines so long, and again if they are shorter."""
_NEWLINES = np.uint64(0x0A0A0A0A0A0A0A0A)


def find_newlines(data: NDArray[np.uint8], size: int) -> NDArray[np.int64]:
    """Return the places of newlines among the first `size` bytes; `PADDING` follows them."""
    places = np.empty(size // _LEAST_LINE_BYTES, np.int64)
    found = _find(data, size, places)
    if found > len(places):
        places = np.empty(found, np.int64)
        _find(data, size, places)
    return places[:found]


@njit(cache=True, nogil=True)
def _find(data: NDArray[np.uint8], size: int, places: NDArray[np.int64]) -> int:
    """Write down places as far as there is room; return how many there are."""
    base, found = np.int64(data.ctypes.data), 0
    for at in range(0, size, 8):
        word = load8(base + at) ^ _NEWLINES
        marks = ~(((word & ~HIGHS) + ~HIGHS) | word) & HIGHS  # exact in every byte, as zero_bytes is not
        while marks != 0:
            place = at + np.int64(trailing_zeros(marks) >> np.uint64(3))
            marks &= marks - np.uint64(1)
            if place < size:
                if found < len(places):
                    places[found] = place
                found += 1
    return found
