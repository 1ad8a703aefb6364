"""Eight bytes at a time: what the scanners of `streams.formats` share.

SWAR ("SIMD within a register") finds bytes in a 64-bit word: a byte of `_zeros(word)` has its high bit set if
that byte of the word is zero (Hacker's Delight, 6-1; exact up to the first zero, which is all that is used).

They take addresses, not arrays: numba counts references to an array in every function that it inlines, which
costs several times what the scanning does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from detectors.kernelcache import njit

ONES = np.uint64(0x0101010101010101)
HIGHS = np.uint64(0x8080808080808080)


@intrinsic
def load8(_context: Any, address: Any) -> Any:
    """Load eight bytes, little-endian, from any address; the caller keeps it within a padded buffer."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], ir.IntType(64).as_pointer()), align=1)

    return types.uint64(address), generate


@intrinsic
def load4(_context: Any, address: Any) -> Any:
    """Load four bytes; same."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], ir.IntType(32).as_pointer()), align=1)

    return types.uint32(address), generate


@intrinsic
def load1(_context: Any, address: Any) -> Any:
    """Load a byte; same."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], ir.IntType(8).as_pointer()))

    return types.uint8(address), generate


@intrinsic
def trailing_zeros(_context: Any, word: Any) -> Any:
    """Count the zero bits below the lowest one bit; undefined for 0."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(word), generate


@intrinsic
def float_bits(_context: Any, value: Any) -> Any:
    """Return the bits of a float64."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(64))

    return types.uint64(value), generate


@intrinsic
def float32_of(_context: Any, bits: Any) -> Any:
    """Return the float32 whose bits are the lower half of a word."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(builder.trunc(arguments[0], ir.IntType(32)), ir.FloatType())

    return types.float32(bits), generate


@intrinsic
def swap8(_context: Any, word: Any) -> Any:
    """Turn the order of a word's bytes."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bswap(arguments[0])

    return types.uint64(word), generate


@njit(inline="always")
def zero_bytes(word: Any) -> Any:
    """Mark the zero bytes of a word by their high bits; marks above the first may be wrong."""
    return (word - ONES) & ~word & HIGHS


@njit(inline="always")
def low_bytes(word: Any, count: Any) -> Any:
    """Return the lowest 1 to 8 bytes of a word."""
    return word & (np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(8 * (8 - count)))


@njit(inline="always")
def is_equal(left: Any, right: Any, size: Any) -> Any:
    """Compare two spans, given by their addresses."""
    for step in range(0, size, 8):
        difference = load8(left + step) ^ load8(right + step)
        rest = size - step
        if (difference if rest >= 8 else low_bytes(difference, rest)) != 0:
            return False
    return True


@njit(inline="always")
def hash_span(start: Any, size: Any) -> Any:
    """Hash a span, given by its address, a word at a time (a multiply-xorshift mix)."""
    mixed = np.uint64(size) * np.uint64(0x9E3779B97F4A7C15)
    for step in range(0, size, 8):
        word = load8(start + step)
        rest = size - step
        mixed = (mixed ^ (word if rest >= 8 else low_bytes(word, rest))) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(32)
    return mixed
