"""Sketches on the wire to float32: 32 little-endian float16, plain or as base64.

Both are read with vectors, a sketch in a few dozen instructions: written as loops over bytes, base64 took a
twelfth of all that an event costs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from detectors.batch import SKETCH_SIZE
from detectors.kernelcache import njit
from detectors.vectors import constant, load, store
from streams.formats.words import load8

if TYPE_CHECKING:
    from numpy.typing import NDArray

SKETCH_CHARS = 88
_SKETCH_BYTES = 2 * SKETCH_SIZE
_ROW_BYTES = 4 * SKETCH_SIZE
"""Of a sketch in float32."""
_ABSENT = np.uint64(0x7E007E007E007E00)
"""Four numbers of a sketch that is absent (`sinks.serving.formats.ABSENT_SKETCH`)."""
_BIAS = 2.0**112
"""Between the exponents of float16 and float32; to multiply makes numbers of subnormal ones, too."""
_BLOCK = 32
"""Characters of base64 at once, which are `_PACKED` bytes."""
_PACKED = _BLOCK * 3 // 4
_BLOCKS_AT = (0, 32, SKETCH_CHARS - _BLOCK)
"""Where blocks begin; the last one overlaps, so that nothing behind the text is read."""
_SPARE_BYTES = 10
"""What is written behind a sketch: the last block gives two bytes too many, and each writes `_BLOCK`."""

_WORD, _BYTE = ir.IntType(32), ir.IntType(8)
_TEXT, _GROUPS = ir.VectorType(_BYTE, _BLOCK), ir.VectorType(_WORD, _BLOCK // 4)


def decode_base64_sketches(
    data: NDArray[np.uint8], starts: NDArray[np.int64], sure: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Return sketches (n, 32) from base64 at `starts`; NaN where a start is negative.

    A row that is not in the one canonical form, or not finite, is marked as not sure.
    """
    sketches = np.empty((len(starts), SKETCH_SIZE), np.float32)
    _decode_base64(data, starts, sure, sketches)
    return sketches


@njit(cache=True, nogil=True)
def _decode_base64(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    sure: NDArray[np.bool_],
    sketches: NDArray[np.float32],
) -> None:
    base, target = np.int64(data.ctypes.data), np.int64(sketches.ctypes.data)
    halves = np.empty(_SKETCH_BYTES + _SPARE_BYTES, np.uint8)
    packed = np.int64(halves.ctypes.data)
    for row in range(len(starts)):
        if starts[row] < 0 or not sure[row]:
            sketches[row] = np.nan
            continue
        # An absent sketch is no text: 32 numbers that are not finite are as wrong as one.
        wrong = _unpack_base64(base + starts[row], packed)
        sure[row] = (wrong | _widen(packed, target + _ROW_BYTES * row)) == 0


@njit(cache=True, nogil=True)
def read_sketches(source: Any, sketches: NDArray[np.float32], infinite: NDArray[np.bool_]) -> None:
    """Write sketches (n, 32) from the float16 at an address, and where one is not finite (n,).

    What `sinks.serving.formats.ABSENT_SKETCH` says becomes a row of NaN and counts as finite.
    """
    target = np.int64(sketches.ctypes.data)
    for row in range(len(sketches)):
        at = source + _SKETCH_BYTES * row
        infinite[row] = False
        if _widen(at, target + _ROW_BYTES * row) != 0:
            sketches[row] = np.nan
            for step in range(0, _SKETCH_BYTES, 8):
                infinite[row] |= load8(at + step) != _ABSENT


@intrinsic
def _widen(_context: Any, source: Any, target: Any) -> Any:
    """Write the 32 float16 at an address to another as float32; return a bit for each that is not finite.

    A float16 is a sign, five bits of exponent and ten of fraction (IEEE 754).
    """
    short, word, number = (ir.VectorType(one, SKETCH_SIZE) for one in (ir.IntType(16), _WORD, ir.FloatType()))

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        halves = load(builder, arguments[0], short)
        words = builder.zext(halves, word)
        magnitude = builder.shl(builder.and_(words, constant(word, 0x7FFF)), constant(word, 13))
        scaled = builder.fmul(builder.bitcast(magnitude, number), constant(number, _BIAS))
        sign = builder.shl(builder.and_(words, constant(word, 0x8000)), constant(word, 16))
        store(builder, arguments[1], builder.or_(builder.bitcast(scaled, word), sign))
        exponent = builder.and_(halves, constant(short, 0x7C00))
        return builder.bitcast(builder.icmp_unsigned("==", exponent, constant(short, 0x7C00)), _WORD)

    return types.uint32(source, target), generate


@intrinsic
def _unpack_base64(_context: Any, source: Any, target: Any) -> Any:
    """Write the bytes that a sketch's text at an address stands for to another; return 0 if it is canonical.

    That is: characters of RFC 4648, section 4, only; two of padding; and no bit behind the last byte.
    """

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        wrong = ir.Constant(_WORD, 0)
        for at in _BLOCKS_AT:
            text = load(builder, builder.add(arguments[0], arguments[0].type(at)), _TEXT)
            if at == _BLOCKS_AT[-1]:
                is_padded, text = _without_padding(builder, text)
                wrong = builder.or_(wrong, builder.zext(builder.not_(is_padded), _WORD))
            bits, is_known = _six_bits(builder, text)
            unknown = builder.bitcast(builder.not_(is_known), ir.IntType(_BLOCK))
            packed = _pack(builder, bits)
            wrong = builder.or_(wrong, builder.zext(unknown, _WORD))
            store(builder, builder.add(arguments[1], arguments[1].type(at * 3 // 4)), packed)
        rest = builder.extract_element(packed, _WORD(_PACKED - 2))  # the byte behind the sketch
        return builder.or_(wrong, builder.zext(rest, _WORD))

    return types.uint32(source, target), generate


def _without_padding(builder: Any, text: Any) -> tuple[Any, Any]:
    """Tell whether the last two of some characters are padding; return them as zeros of base64."""
    is_padded = ir.Constant(ir.IntType(1), 1)
    for place in (_BLOCK - 2, _BLOCK - 1):
        last = builder.extract_element(text, _WORD(place))
        is_padded = builder.and_(is_padded, builder.icmp_unsigned("==", last, _BYTE(ord("="))))
        text = builder.insert_element(text, _BYTE(ord("A")), _WORD(place))
    return is_padded, text


def _six_bits(builder: Any, text: Any) -> tuple[Any, Any]:
    """Return what each character stands for, and whether it is one of the alphabet."""
    value, is_known = constant(_TEXT, 0), ir.Constant(ir.VectorType(ir.IntType(1), _BLOCK), [0] * _BLOCK)
    for first, count, base in (("A", 26, 0), ("a", 26, 26), ("0", 10, 52), ("+", 1, 62), ("/", 1, 63)):
        place = builder.sub(text, constant(_TEXT, ord(first)))
        is_here = builder.icmp_unsigned("<", place, constant(_TEXT, count))
        value = builder.select(is_here, builder.add(place, constant(_TEXT, base)), value)
        is_known = builder.or_(is_known, is_here)
    return value, is_known


def _pack(builder: Any, bits: Any) -> Any:
    """Return the bytes that six bits each make, first those that mean something."""
    four = builder.bitcast(bits, _GROUPS)
    packed = builder.lshr(four, constant(_GROUPS, 24))
    for shift, mask in ((18, 0xFC0000), (4, 0x3F000), (-10, 0xFC0)):
        move = builder.shl if shift > 0 else builder.lshr
        part = builder.and_(move(four, constant(_GROUPS, abs(shift))), constant(_GROUPS, mask))
        packed = builder.or_(packed, part)
    order = [4 * group + place for group in range(_BLOCK // 4) for place in (2, 1, 0)]
    chosen = ir.Constant(ir.VectorType(_WORD, _BLOCK), order + [0] * (_BLOCK - len(order)))
    return builder.shuffle_vector(builder.bitcast(packed, _TEXT), _TEXT(ir.Undefined), chosen)
