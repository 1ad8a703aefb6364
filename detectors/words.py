"""Sketches as the 32-bit words of their float32 numbers: what can be told of them without arithmetic.

Called by kernels with a row of `sketch.view(np.uint32)`. No loop has a way out, so that many words are looked
at side by side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from detectors.kernelcache import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detectors.base import Array

_EXPONENT = np.uint32(0x7F800000)
_NEGATIVE_ZERO = np.uint32(0x80000000)
_MOST_WORDS = 32
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""Numbers a step of this apart, mixed, are as good as drawn (SplitMix64)."""


@njit(inline="always")
def mix(word: Any) -> Any:
    """Finish a hash of 64 bits (the finaliser of SplitMix64; Steele, Lea, Flood, OOPSLA 2014)."""
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


def _multipliers() -> NDArray[np.uint32]:
    """Draw an odd factor for each word."""
    drawn: NDArray[np.uint64] = mix.py_func(np.arange(1, _MOST_WORDS + 1, dtype=np.uint64) * GOLDEN)
    return (drawn >> np.uint64(32)).astype(np.uint32) | np.uint32(1)


_MULTIPLIERS = _multipliers()


@njit(cache=True, nogil=True, inline="always")
def is_finite(words: Array) -> bool:
    """Tell whether all numbers are finite: an absent sketch is NaN."""
    bad = np.uint32(0)
    for j in range(len(words)):
        bad += np.uint32(words[j] & _EXPONENT == _EXPONENT)
    return bool(bad == 0)


@njit(cache=True, nogil=True, inline="always")
def hash_words(words: Array) -> Any:
    """Mix up to 32 words into one, uint32; -0.0 and 0.0 are one.

    A multilinear sum (Lemire, Kaser, "Strongly universal string hashing is fast", Computer Journal 2014), of
    which no term waits for another, then the finaliser of MurmurHash3.
    """
    total = np.uint64(0)
    for j in range(len(words)):
        positive = np.uint32(0) if words[j] == _NEGATIVE_ZERO else words[j]
        total += np.uint64(positive) * np.uint64(_MULTIPLIERS[j])
    mixed = np.uint32(total ^ (total >> np.uint64(32)))
    mixed ^= mixed >> np.uint32(16)
    mixed = np.uint32(mixed * np.uint32(0x85EBCA6B))
    mixed ^= mixed >> np.uint32(13)
    mixed = np.uint32(mixed * np.uint32(0xC2B2AE35))
    return np.uint32(mixed ^ (mixed >> np.uint32(16)))
