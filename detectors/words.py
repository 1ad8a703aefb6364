"""Sketches as the 32-bit words of their float32 numbers: what can be told of them without arithmetic.

Called by kernels with a row of `sketch.view(np.uint32)`. No loop has a way out, so that many words are looked
at side by side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from detectors.kernelcache import njit

if TYPE_CHECKING:
    from detectors.base import Array

_EXPONENT = np.uint32(0x7F800000)


@njit(cache=True, nogil=True, inline="always")
def is_finite(words: Array) -> bool:
    """Tell whether all numbers are finite: an absent sketch is NaN."""
    bad = np.uint32(0)
    for j in range(len(words)):
        bad += np.uint32(words[j] & _EXPONENT == _EXPONENT)
    return bool(bad == 0)
