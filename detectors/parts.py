"""State in named parts: each below a Kafka message's limit, checked by itself and as a whole.

A part is an array package (`detectors.arrays`) with a CRC-32 in front. The part `meta` is written last; it
lists the checksum of every part that the state consists of. So a set of parts that were not written together
is refused, and a part that did not change need not be written again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from detectors.arrays import ArrayFormatError, pack_arrays, unpack_arrays

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from detectors.base import Array

PART_BYTES = 800_000
"""About the most that a part holds: below the 1 MiB that a Kafka message may have."""

META = "meta"
"""Name of the part that lists the others."""

_CHECKSUM_BYTES = 4


class StateError(Exception):
    """A state cannot be restored: wrong version, parts missing or damaged. The message says what to do."""


class PartWriter:
    """Writes parts, leaving out those that are as they were when last written.

    Parameters
    ----------
    version
        Of the state's layout; a reader of another version refuses it.
    """

    def __init__(self, version: int) -> None:
        self._version = version
        self._written: dict[str, str] = {}

    @property
    def names(self) -> frozenset[str]:
        """Parts that the state consists of, as last written or read."""
        return frozenset({META, *self._written})

    def write(
        self,
        arrays: Iterator[tuple[str, Mapping[str, Array]]],
        blobs: Iterator[tuple[str, bytes]],
        meta: Mapping[str, Any],
        *,
        changed_only: bool,
        replaced: Sequence[str] = (),
    ) -> Iterator[tuple[str, bytes]]:
        """Yield parts by name, `meta` last; when it is taken, the others count as written.

        Parameters
        ----------
        arrays
            Arrays that fit a part; with `changed_only` those that changed.
        blobs
            Bytes of any length, cut in as many parts as it takes.
        meta
            JSON-like.
        changed_only
            Leave out parts of blobs whose bytes are the same as last time.
        replaced
            What the names of arrays begin with that are no part of the state any more.
        """
        kept = self._written if changed_only else {}
        listed = {n: checksum for n, checksum in kept.items() if not n.startswith(tuple(replaced))}
        for name, columns in arrays:
            part = self._pack(columns)
            listed[name] = _checksum(part)
            yield name, part
        for name, blob in blobs:
            for stale in [n for n in listed if n.startswith(f"{name}/")]:
                del listed[stale]
            for number, start in enumerate(range(0, len(blob), PART_BYTES)):
                part = self._pack({"blob": np.frombuffer(blob[start : start + PART_BYTES], np.uint8)})
                piece = f"{name}/{number}"
                listed[piece] = _checksum(part)
                if not changed_only or self._written.get(piece) != listed[piece]:
                    yield piece, part
        self._written = listed
        yield META, pack_arrays(META, self._version, {}, {"parts": listed, "state": dict(meta)})

    def read(
        self, parts: Mapping[str, bytes]
    ) -> tuple[dict[str, dict[str, Array]], dict[str, bytes], dict[str, Any]]:
        """Return the arrays, blobs and meta that `write` was given; parts not listed are left out.

        Raises
        ------
        ArrayFormatError
            If parts are missing, damaged, of another version, or were not written together.
        """
        if META not in parts:
            raise ArrayFormatError(f"the part {META!r} is missing")
        _, meta = unpack_arrays(parts[META], META, self._version)
        arrays: dict[str, dict[str, Array]] = {}
        blobs: dict[str, list[bytes]] = {}
        for name, checksum in meta["parts"].items():
            if name not in parts:
                raise ArrayFormatError(f"the part {name!r} is missing")
            if _checksum(parts[name]) != checksum:
                raise ArrayFormatError(f"the part {name!r} is older or newer than the part {META!r}")
            columns, _ = unpack_arrays(parts[name], "part", self._version)
            if set(columns) == {"blob"}:
                blobs.setdefault(name.rpartition("/")[0], []).append(columns["blob"].tobytes())
            else:
                arrays[name] = columns
        self._written = dict(meta["parts"])
        return arrays, {name: b"".join(pieces) for name, pieces in blobs.items()}, meta["state"]

    def _pack(self, columns: Mapping[str, Array]) -> bytes:
        return pack_arrays("part", self._version, columns)


def _checksum(part: bytes) -> str:
    return part[:_CHECKSUM_BYTES].hex()
