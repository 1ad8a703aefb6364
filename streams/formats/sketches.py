"""Sketches on the wire to float32: 32 little-endian float16, plain or as base64."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from detectors.batch import SKETCH_SIZE
from detectors.kernelcache import njit
from streams.formats.words import float_bits, load8, store4

if TYPE_CHECKING:
    from numpy.typing import NDArray

SKETCH_CHARS = 88
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_NO_PAIR = np.uint64(0x1000)
_PADDING = np.uint64(int.from_bytes(b"==", "little"))
_ZEROS = np.uint64(int.from_bytes(b"AA", "little") << 48)
_NAN = np.uint64(0x7FC00000)
ROW_BYTES = 4 * SKETCH_SIZE
_ABSENT = np.uint64(0x7E00)
INFINITE = np.uint64(0x7C00)
"""From here on a float16 without its sign is infinite or not a number."""


def _pairs() -> NDArray[np.uint16]:
    """Return the 12 bits that two characters of base64 stand for, by them as a little-endian number."""
    six = np.full(256, -1)
    six[np.frombuffer(_ALPHABET, np.uint8)] = np.arange(64)
    high, low = six[np.newaxis, :], six[:, np.newaxis]
    both: NDArray[np.uint16] = np.where((high < 0) | (low < 0), int(_NO_PAIR), high * 64 + low).astype(
        np.uint16
    )
    return both.ravel()


_PAIRS = _pairs()


def decode_base64_sketches(
    data: NDArray[np.uint8], starts: NDArray[np.int64], sure: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Return sketches (n, 32) from base64 at `starts`; NaN where a start is negative.

    A row that is not in the one canonical form, or not finite, is marked as not sure.
    """
    sketches = np.empty((len(starts), SKETCH_SIZE), np.float32)
    _decode_base64(data, starts, sure, _PAIRS, sketches, sketches.view(np.uint32))
    return sketches


@njit(cache=True, nogil=True)
def _decode_base64(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    sure: NDArray[np.bool_],
    pairs: NDArray[np.uint16],
    sketches: NDArray[np.float32],
    bits: NDArray[np.uint32],
) -> None:
    base = np.int64(data.ctypes.data)
    for row in range(len(starts)):
        if starts[row] < 0 or not sure[row]:
            for column in range(SKETCH_SIZE):
                sketches[row, column] = np.nan
            continue
        at, wrong, worst = base + starts[row], np.uint64(0), np.uint64(0)
        for group in range(11):  # of eight characters, six bytes, three numbers
            word, packed = load8(at + 8 * group), np.uint64(0)
            if group == 10:  # ends with padding
                wrong |= (word >> np.uint64(48) ^ _PADDING) & np.uint64(0xFFFF)
                word = word & np.uint64(0x0000FFFFFFFFFFFF) | _ZEROS
            for _ in range(4):
                two = np.uint64(pairs[np.int64(word & np.uint64(0xFFFF))])
                wrong |= two & _NO_PAIR
                packed = packed << np.uint64(12) | two
                word >>= np.uint64(16)
            for number in range(3 if group < 10 else 2):
                half = swap_bytes(packed >> np.uint64(32 - 16 * number))
                worst = max(worst, half & np.uint64(0x7FFF))
                bits[row, 3 * group + number] = half_to_single(half)
            if group == 10:
                wrong |= packed & np.uint64(0xFFFF)  # bits that belong to no number
        sure[row] = wrong == 0 and worst < INFINITE


@njit(inline="always")
def read_sketch(at: Any, to: Any) -> Any:
    """Read 32 float16 from one address to 32 float32 at another; False if one is not finite.

    What `sinks.serving.formats.ABSENT_SKETCH` says becomes a row of NaN and counts as finite.
    """
    worst, least = np.uint64(0), np.uint64(0xFFFF)
    for group in range(SKETCH_SIZE // 4):
        word = load8(at + 8 * group)
        for number in range(4):
            half = word >> np.uint64(16 * number) & np.uint64(0xFFFF)
            worst, least = max(worst, half & np.uint64(0x7FFF)), min(least, half)
            store4(to + 4 * (4 * group + number), half_to_single(half))
    if worst < INFINITE:
        return True
    clear_sketch(to)
    return worst == _ABSENT and least == _ABSENT


@njit(inline="always")
def clear_sketch(to: Any) -> None:
    """Write 32 times "not a number"."""
    for column in range(SKETCH_SIZE):
        store4(to + 4 * column, _NAN)


@njit(inline="always")
def swap_bytes(word: Any) -> Any:
    """Exchange the two lowest bytes; the others become 0."""
    return (word >> np.uint64(8) & np.uint64(0xFF)) | (word & np.uint64(0xFF)) << np.uint64(8)


@njit(inline="always")
def half_to_single(half: Any) -> Any:
    """Return the bits of the float32 that equals a finite float16, given by its bits."""
    magnitude = half & np.uint64(0x7FFF)
    sign = (half & np.uint64(0x8000)) << np.uint64(16)
    if magnitude >= np.uint64(0x0400):  # exponents differ in bias by 112
        return sign | ((magnitude << np.uint64(13)) + np.uint64(112 << 23))
    if magnitude == 0:
        return sign
    # A subnormal number, a multiple of 2**-24: exact in float64, whose 52 bits become 23, its bias 127.
    bits = float_bits(np.float64(magnitude) * 2.0**-24)
    return sign | ((bits >> np.uint64(29)) - np.uint64((1023 - 127) << 23))
