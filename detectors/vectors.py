"""Vectors of LLVM in kernels: what `intrinsic`s that read and write them by address have in common.

For use inside a generator of code only, next to an `njit` kernel that calls it. A vector is the same on every
machine (LLVM's language reference, "Vector Type"); the compiler splits it into what the machine has.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

__all__ = ["constant", "load", "repeat", "store", "vector_function"]


def constant(kind: ir.VectorType, value: float) -> Any:
    """Return a vector that holds one value, known now, everywhere."""
    return ir.Constant(kind, [value] * kind.count)


def repeat(builder: Any, value: Any, kind: ir.VectorType) -> Any:
    """Return a vector that holds one value, known when the kernel runs, everywhere."""
    one = builder.insert_element(kind(ir.Undefined), value, ir.IntType(32)(0))
    every = ir.Constant(ir.VectorType(ir.IntType(32), kind.count), [0] * kind.count)
    return builder.shuffle_vector(one, kind(ir.Undefined), every)


def load(builder: Any, address: Any, kind: Any, *, align: int = 1) -> Any:
    """Read a number or a vector from an address (int64), which is a multiple of `align` bytes."""
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=align)


def store(builder: Any, address: Any, value: Any, *, align: int = 1) -> None:
    """Write a number or a vector to an address (int64), which is a multiple of `align` bytes."""
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=align)


def vector_function(builder: Any, name: str, kind: ir.VectorType, *, count: int = 2) -> Any:
    """Return an operation of LLVM on so many vectors (its language reference, "Intrinsic Functions")."""
    number = "f32" if isinstance(kind.element, ir.FloatType) else f"i{kind.element.width}"
    called = ir.FunctionType(kind, [kind] * count)
    return cgutils.get_or_insert_function(builder.module, called, f"llvm.{name}.v{kind.count}{number}")
