"""Ask for memory ahead of its use, so that work on one key hides the way to the next one's.

Keys lie far apart and come in no order that the hardware could guess, but what the next rows of a batch need
is known. It gains where keys are many; a key that asks all the time is near already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from detectors.kernelcache import njit

if TYPE_CHECKING:
    from detectors.base import Array

__all__ = ["CACHE_LINE_BYTES", "ROWS_AHEAD", "prefetch", "slot_ahead"]

CACHE_LINE_BYTES = 64
"""Of the machines that Modelwarden is likely to run on; another size costs time, nothing else."""
ROWS_AHEAD = 8
"""The work on so many takes longer than a line takes to come from main memory."""


@njit(cache=True, nogil=True, inline="always")
def slot_ahead(slots: Array, row: int) -> Any:
    """Return the slot that is needed some rows later."""
    return slots[min(row + ROWS_AHEAD, len(slots) - 1)]


@intrinsic
def prefetch(typing_context: Any, array: Any, place: Any) -> Any:  # noqa: ARG001 - numba's signature
    """Begin to load the cache line where row `place` of an array begins; no place is out of bounds."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0]
        made = context.make_array(kind)(context, builder, arguments[0])
        stride = builder.extract_value(made.strides, 0)
        start = builder.ptrtoint(made.data, stride.type)
        address = builder.add(start, builder.mul(stride, arguments[1]))
        pointer = builder.inttoptr(address, ir.IntType(8).as_pointer())
        word = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [pointer, word(0), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate
