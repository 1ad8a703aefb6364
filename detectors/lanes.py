"""Products of sketches with a matrix, many rows side by side.

One vector instruction serves many rows, and a row's result does not depend on its neighbours. A matrix
product of a BLAS would: it rounds otherwise for other numbers of rows. All arrays are float32.

>>> for start in range(0, len(rows), LANES):
...     count = load_lanes(sketch, rows, centre_of, centres, start, apart)
...     for k in range(0, matrix.shape[1], TOGETHER):
...         project(apart, 0, matrix, k, 0, count, columns)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic

from detectors.batch import SKETCH_SIZE
from detectors.kernelcache import njit
from detectors.vectors import constant, load, repeat, store, vector_function

if TYPE_CHECKING:
    from detectors.base import Array

LANES = 128
"""Rows side by side."""
TOGETHER = 4
"""Columns of a matrix that rows are multiplied with at once, so that these are read once for all of them."""
_SQUARE, _NUMBER_BYTES = 8, 4
"""Rows and columns turned at once, of so many bytes a number."""
BLOCK = 16
"""Lanes whose sums stay in registers: with `TOGETHER` columns they fill half of the sixteen of AVX2."""


@njit(cache=True, nogil=True)
def load_lanes(sketch: Array, rows: Array, centre_of: Array, centres: Array, start: int, apart: Array) -> int:
    """Write up to `LANES` sketches, less their centres, to the columns of `apart`.

    They are those in the `rows` (n,) from `start` on; `centre_of` (n,) is each one's row among the centres;
    `apart` is (32, LANES). Return how many there were.
    """
    count = min(LANES, len(rows) - start)
    target, sketches, points = _address(apart), _address(sketch), _address(centres)
    for first in range(0, count, _SQUARE):
        # The last square repeats the last sketch: lanes beyond the count hold anything.
        at = (
            _addresses(sketches, rows, start, first, count),
            _addresses(points, centre_of, start, first, count),
        )
        _turn_rows(*at, target + _NUMBER_BYTES * first)
    return count


@intrinsic
def _address(_context: Any, array: Any) -> Any:
    """Return where the numbers of an array lie; only of one whose rows lie close together."""
    if array.layout != "C" or array.dtype != types.float32:
        raise TypingError(f"lanes are read from contiguous arrays of float32, not {array}")

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        made = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.ptrtoint(made.data, ir.IntType(64))

    return types.int64(array), generate


@njit(inline="always")
def _addresses(base: Any, rows: Any, start: Any, first: Any, count: Any) -> Any:
    """Return where `_SQUARE` rows of `SKETCH_SIZE` numbers begin, from the `first` of `count` on."""
    last, size = count - 1, _NUMBER_BYTES * SKETCH_SIZE
    return (
        base + size * rows[start + first],
        base + size * rows[start + min(first + 1, last)],
        base + size * rows[start + min(first + 2, last)],
        base + size * rows[start + min(first + 3, last)],
        base + size * rows[start + min(first + 4, last)],
        base + size * rows[start + min(first + 5, last)],
        base + size * rows[start + min(first + 6, last)],
        base + size * rows[start + min(first + 7, last)],
    )


@intrinsic
def _turn_rows(_context: Any, rows: Any, centres: Any, target: Any) -> Any:
    """Write `_SQUARE` rows less their centres, all by their addresses, to columns `LANES` apart.

    A square at a time, in registers: number by number, each takes a store to a line of its own.
    """

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        word, number = ir.IntType(64), ir.VectorType(ir.FloatType(), _SQUARE)

        def place(address: Any, offset: int) -> Any:
            return builder.add(address, word(_NUMBER_BYTES * offset))

        begins = [[builder.extract_value(one, k) for k in range(_SQUARE)] for one in arguments[:2]]
        for column in range(0, SKETCH_SIZE, _SQUARE):
            square = []
            for row, centre in zip(*begins, strict=True):
                values, point = (load(builder, place(at, column), number, align=4) for at in (row, centre))
                square.append(builder.fsub(values, point))
            for k, turned in enumerate(_turn_square(builder, square)):
                store(builder, place(arguments[2], LANES * (column + k)), turned, align=4)
        return _context.get_dummy_value()

    return types.void(rows, centres, target), generate


def _turn_square(builder: Any, rows: list[Any]) -> list[Any]:
    """Transpose `_SQUARE` vectors of as many numbers: pairs of rows trade halves, quarters, eighths."""
    index = ir.VectorType(ir.IntType(32), _SQUARE)
    for width in (4, 2, 1):
        low = [k if not k & width else k - width + _SQUARE for k in range(_SQUARE)]
        high = [k + width for k in low]
        for k in range(_SQUARE):
            if not k & width:
                pair = rows[k], rows[k + width]
                rows[k], rows[k + width] = (
                    builder.shuffle_vector(*pair, ir.Constant(index, order)) for order in (low, high)
                )
    return rows


@njit(cache=True, nogil=True)
def project(lanes: Array, begin: int, matrix: Array, k: int, first: int, count: int, out: Array) -> None:
    """Write the products of `count` lanes, from `begin` on, with columns `k` to `k + TOGETHER` of a matrix.

    Lanes (32, n) and matrix (32, m) are contiguous; their rows from `first` on count. `out` is (TOGETHER, at
    least `count` rounded up to `BLOCK`), and so many lanes are read.
    """
    for at in range(0, count, BLOCK):
        _project_block(lanes, begin + at, matrix, k, first, out, at)


@intrinsic
def _project_block(
    _context: Any, lanes: Any, _begin: Any, matrix: Any, _k: Any, _first: Any, out: Any, _at: Any
) -> Any:  # fmt: skip
    """Sum up `BLOCK` lanes' products in registers: compiled from loops, the sums go through memory."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes, begin, matrix, k, first, out, at = arguments
        number, word = ir.FloatType(), begin.type
        block = ir.VectorType(number, BLOCK)
        multiply_add = vector_function(builder, "fmuladd", block, count=3)

        def place(kind: Any, array: Any, row: Any, column: Any) -> Any:
            made = context.make_array(kind)(context, builder, array)
            width = builder.extract_value(made.shape, 1)
            return builder.gep(made.data, [builder.add(builder.mul(row, width), column)])

        def as_block(pointer: Any) -> Any:
            return builder.bitcast(pointer, block.as_pointer())

        sums = [cgutils.alloca_once_value(builder, constant(block, 0.0)) for _ in range(TOGETHER)]
        with cgutils.for_range(builder, word(SKETCH_SIZE), start=first, intp=word) as loop:
            values = builder.load(as_block(place(signature.args[0], lanes, loop.index, begin)), align=4)
            for column, total in enumerate(sums):
                own = place(signature.args[2], matrix, loop.index, builder.add(k, word(column)))
                many = repeat(builder, builder.load(own), block)
                builder.store(builder.call(multiply_add, [many, values, builder.load(total)]), total)
        for column, total in enumerate(sums):
            pointer = as_block(place(signature.args[5], out, word(column), at))
            builder.store(builder.load(total), pointer, align=4)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(lanes, integer, matrix, integer, integer, out, integer), generate
