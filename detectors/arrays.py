"""Arrays and small metadata to bytes and back: the one format of references and state dumps.

Safe on bytes from a topic: nothing is executed, sizes are checked, damage is detected.
"""

from __future__ import annotations

import zlib
from math import prod
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_KINDS = "biuf"


class ArrayFormatError(ValueError):
    """The bytes are not an array package: damaged, truncated, or of another kind."""


class _Array(msgspec.Struct, array_like=True):
    dtype: str
    shape: tuple[int, ...]
    data: bytes


class _Package(msgspec.Struct, array_like=True):
    kind: str
    version: int
    meta: dict[str, Any]
    arrays: dict[str, _Array]


def pack_arrays(
    kind: str, version: int, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any] | None = None
) -> bytes:
    """Write arrays and JSON-like metadata as bytes, with a CRC-32 in front."""
    entries = {
        name: _Array(array.dtype.str, array.shape, np.ascontiguousarray(array).tobytes())
        for name, array in arrays.items()
    }
    body = msgspec.msgpack.encode(_Package(kind, version, dict(meta or {}), entries))
    return zlib.crc32(body).to_bytes(4, "big") + body


def unpack_arrays(blob: bytes, kind: str, version: int) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read what `pack_arrays` wrote; the arrays are writable copies.

    Raises
    ------
    ArrayFormatError
        If the bytes are damaged, of another kind, or of another version.
    """
    if len(blob) < 4 or zlib.crc32(blob[4:]) != int.from_bytes(blob[:4], "big"):
        raise ArrayFormatError(f"damaged {kind}: the checksum does not match its {len(blob)} bytes")
    try:
        package = msgspec.msgpack.decode(blob[4:], type=_Package)
    except msgspec.DecodeError as error:
        raise ArrayFormatError(f"not a {kind}: {error}") from error
    if package.kind != kind or package.version != version:
        raise ArrayFormatError(
            f"expected {kind} of version {version}, found {package.kind} of version {package.version}"
        )
    return {name: _array(name, entry) for name, entry in package.arrays.items()}, package.meta


def named(arrays: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    """Return the arrays whose names begin with `prefix.`, without it."""
    start = f"{prefix}."
    return {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}


def _array(name: str, entry: _Array) -> NDArray[Any]:
    dtype = np.dtype(entry.dtype)
    if dtype.kind not in _KINDS or prod(entry.shape) * dtype.itemsize != len(entry.data):
        raise ArrayFormatError(f"array {name}: {len(entry.data)} bytes do not make {dtype} of {entry.shape}")
    return np.frombuffer(entry.data, dtype).reshape(entry.shape).copy()
