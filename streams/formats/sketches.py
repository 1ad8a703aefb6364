"""Sketches on the wire to float32: 32 little-endian float16, plain or as base64."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from detectors.batch import SKETCH_SIZE
from detectors.kernelcache import njit
from streams.formats.words import load8

if TYPE_CHECKING:
    from numpy.typing import NDArray

SKETCH_CHARS = 88
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_NO_PAIR = np.uint64(0x1000)
_PADDING = np.uint64(int.from_bytes(b"==", "little"))
_ZEROS = np.uint64(int.from_bytes(b"AA", "little") << 48)
_ABSENT = np.uint16(0x7E00)
_BIAS = np.float32(2.0**112)
_NEAR = 2048
"""Numbers at once: they stay in the nearest cache from one loop to the next."""
_INFINITE = np.uint16(0x7C00)
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
    halves = np.full((len(starts), SKETCH_SIZE), _ABSENT, np.uint16)
    for row in range(len(starts)):
        if starts[row] < 0 or not sure[row]:
            continue
        at, wrong = base + starts[row], np.uint64(0)
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
                halves[row, 3 * group + number] = _swap_bytes(packed >> np.uint64(32 - 16 * number))
            if group == 10:
                wrong |= packed & np.uint64(0xFFFF)  # bits that belong to no number
        sure[row] = wrong == 0 and halves[row, 0] != _ABSENT  # as text, an absent sketch is none at all
    infinite = np.empty(len(starts), np.bool_)
    read_sketches(halves, sketches, bits, infinite)
    for row in range(len(starts)):
        sure[row] &= not infinite[row]


@njit(cache=True, nogil=True)
def read_sketches(
    halves: NDArray[np.uint16],
    sketches: NDArray[np.float32],
    bits: NDArray[np.uint32],
    infinite: NDArray[np.bool_],
) -> None:
    """Write sketches (n, 32) from the bits of float16 (n, 32), and where one is not finite (n,).

    What `sinks.serving.formats.ABSENT_SKETCH` says becomes a row of NaN and counts as finite. `bits` are
    those of `sketches`.
    """
    infinite[:] = False
    flat, numbers, words = halves.reshape(-1), sketches.reshape(-1), bits.reshape(-1)
    worst = np.uint16(0)
    for start in range(0, len(flat), _NEAR):
        end = start + _NEAR
        worst = max(worst, _widen(flat[start:end], numbers[start:end], words[start:end]))
    if worst < _INFINITE:
        return
    for row in range(len(halves)):
        least, largest = np.uint16(0xFFFF), np.uint16(0)
        for half in halves[row]:
            least, largest = min(least, half), max(largest, np.uint16(half & np.uint16(0x7FFF)))
        if largest >= _INFINITE:
            sketches[row] = np.nan
            infinite[row] = largest != _ABSENT or least != _ABSENT


@njit(cache=True, nogil=True)
def _widen(halves: NDArray[np.uint16], numbers: NDArray[np.float32], bits: NDArray[np.uint32]) -> Any:
    """Write finite float16, given by their bits, as float32; return the largest bits without a sign.

    The exponents' biases differ by 112. To multiply makes numbers of subnormal ones, too. Each loop does one
    thing, to many numbers side by side.
    """
    largest = np.uint16(0)
    for k in range(len(halves)):
        magnitude = np.uint16(halves[k] & np.uint16(0x7FFF))
        largest = max(largest, magnitude)
        bits[k] = np.uint32(magnitude) << np.uint32(13)
    for k in range(len(halves)):
        numbers[k] *= _BIAS
    for k in range(len(halves)):
        bits[k] |= np.uint32(halves[k] & np.uint16(0x8000)) << np.uint32(16)
    return largest


@njit(inline="always")
def _swap_bytes(word: Any) -> Any:
    """Exchange the two lowest bytes; the others become 0."""
    return np.uint16((word >> np.uint64(8) & np.uint64(0xFF)) | (word & np.uint64(0xFF)) << np.uint64(8))
