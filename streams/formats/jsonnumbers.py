"""Numbers and spaces of JSON, scanned at an address: the inlined parts of `streams.formats.jsonscan`.

A number that these are not sure of ends at -1, and the careful reader judges it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from detectors.kernelcache import njit
from streams.formats.words import float_bits, load1

if TYPE_CHECKING:
    from numpy.typing import NDArray

_EXACT_POWERS = 22
_MAX_POWER = 37
POWERS = 10.0 ** np.arange(_MAX_POWER + 1)
MAX_DIGITS = 19
_NEAR_ULPS = 8
"""Distance from the middle of two float32, in units of float64, below which the rounding is not sure."""


@njit(inline="always")
def is_space(byte: Any) -> Any:
    """Tell whether a byte is white space."""
    return byte == 32 or byte == 10 or byte == 13 or byte == 9  # noqa: PLR1714 - a set would be slow


@njit(inline="always")
def is_end(byte: Any) -> Any:
    """Tell whether a number may end before this byte."""
    return byte == 44 or byte == 125 or is_space(byte)  # noqa: PLR1714 - same


@njit(inline="always")
def skip_space(at: Any) -> Any:
    """Return the address of the next byte that is no white space."""
    while is_space(load1(at)):
        at += 1
    return at


@njit(inline="always")
def scan_digits(at: Any) -> Any:
    """Read a whole number: how many digits, its value, and the place behind; no digits if not sure."""
    value, start = np.uint64(0), at
    while 48 <= load1(at) <= 57 and at - start <= MAX_DIGITS:
        value = value * np.uint64(10) + np.uint64(load1(at) - 48)
        at += 1
    digits = at - start
    is_sure = is_end(load1(at)) and (load1(start) != 48 or digits == 1)
    return digits if is_sure else np.int64(0), value, at


@njit(inline="always")
def add_digits(at: Any, mantissa: Any, digits: Any) -> Any:
    """Read digits into a mantissa of at most 20 of them, zeros before the first other digit not counted."""
    while 48 <= load1(at) <= 57 and digits <= MAX_DIGITS:
        mantissa = mantissa * np.uint64(10) + np.uint64(load1(at) - 48)
        digits += np.int64(mantissa != 0)
        at += 1
    return mantissa, digits, at


@njit(inline="always")
def scan_exponent(at: Any) -> Any:
    """Read what follows an `e`: the power of ten and the place behind; 100 if it is malformed or large."""
    is_negative = load1(at) == 45  # -
    if is_negative or load1(at) == 43:  # +
        at += 1
    start, power = at, np.int64(0)
    while 48 <= load1(at) <= 57 and at - start < 3:
        power = power * 10 + np.int64(load1(at) - 48)
        at += 1
    if at == start:
        power = np.int64(100)
    return -power if is_negative else power, at


@njit(inline="always")
def scan_float(at: Any, powers: NDArray[np.float64], limit: Any) -> Any:
    """Read a number from 0 to a limit: its float64 and the place behind; -1 where it is not sure."""
    start = at
    mantissa, digits, at = add_digits(at, np.uint64(0), np.int64(0))
    is_form = at > start and (load1(start) != 48 or at == start + 1)
    exponent = np.int64(0)
    if load1(at) == 46:  # .
        point = at + 1
        mantissa, digits, at = add_digits(point, mantissa, digits)
        exponent = point - at
        is_form = is_form and at > point
    if load1(at) == 101 or load1(at) == 69:  # e, E
        power, at = scan_exponent(at + 1)
        exponent += power
    if not (is_form and is_end(load1(at)) and digits <= MAX_DIGITS and -_MAX_POWER <= exponent <= _MAX_POWER):
        return np.float64(0.0), np.int64(-1)
    value = np.float64(mantissa)
    value = value / powers[-exponent] if exponent < 0 else value * powers[exponent]
    return value, at if _is_sure(value, mantissa, exponent, limit) else np.int64(-1)


@njit(inline="always")
def _is_sure(value: Any, mantissa: Any, exponent: Any, limit: Any) -> Any:
    """Tell whether the number, up to two units off, lies within its limit and gives the same float32.

    It is not off at all where mantissa and power are exact: one multiplication or division rounds rightly.
    """
    if mantissa < np.uint64(1) << np.uint64(53) and abs(exponent) <= _EXACT_POWERS:
        return value <= limit
    # The 29 bits that a float32 has not: 2**28 is the middle between two.
    from_middle = (float_bits(value) & np.uint64(0x1FFFFFFF)) - np.uint64(1 << 28) + np.uint64(_NEAR_ULPS)
    return from_middle > np.uint64(2 * _NEAR_ULPS) and value < limit * (1 - 1e-14)
