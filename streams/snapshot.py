"""The form of a state snapshot on the compacted `state` topic.

A snapshot of one source partition is cut in pieces, one message each. The key is (partition, generation,
slot, piece); slots alternate with the snapshot's number, so writing one never overwrites the newest complete
one, and compaction keeps both. Each piece carries a checksum of its own content and what is needed to put the
snapshot together: the parts of one snapshot have the same generation, number and count.

The generation rises with every restore, so a stalled worker that wakes up late writes under keys of its own.
"""

from __future__ import annotations

import secrets
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from zlib import crc32

import msgspec

from sinks.policyfile import Policy  # noqa: TC001 - msgspec reads the annotations at run time
from streams.errors import StateVersionError
from streams.outputs import Output  # noqa: TC001 - same

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FORMAT_VERSION = 1
PIECE_BYTES = 512 * 1024
SLOTS = 2
_LOT_BITS = 32

_KEY = struct.Struct(">iqBi")
_HEADER = struct.Struct(">HqqiiqI")
"""Format version, generation, snapshot number, piece, pieces, fence, crc32 of key, fields and content."""
_VERSION = struct.Struct(">H")
_META_SIZE = struct.Struct(">I")


class SnapshotMeta(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot says about itself."""

    fences: dict[str, int]
    """By source topic: offset of the last record that the state contains."""
    outputs: dict[str, int]
    """By output topic: everything made after this snapshot stands at this offset or later."""
    policy: Policy | None = None
    """The policy under which the events after this snapshot are processed, until the next one."""
    held: tuple[Output, ...] = ()
    """Outputs that may be written once this snapshot is durable, and not before."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one source partition at one moment."""

    partition: int
    generation: int
    number: int
    """Counts the snapshots of a generation, from 1."""
    meta: SnapshotMeta
    blob: bytes


def next_generation(group_generation: int, highest: int) -> int:
    """Return a state generation above `highest`, the one found, and above those of earlier group generations.

    Its low half is drawn by lot: two processes that share a group generation (one of them a static member
    that was replaced while it was stalled) must not write under the same keys.
    """
    epoch = max(group_generation, (highest >> _LOT_BITS) + 1)
    return (epoch << _LOT_BITS) + secrets.randbits(_LOT_BITS)


def cut(snapshot: Snapshot, fence: int, piece_bytes: int = PIECE_BYTES) -> Iterator[tuple[bytes, bytes]]:
    """Yield the snapshot's messages, as (key, value)."""
    meta = msgspec.json.encode(snapshot.meta)
    body = _META_SIZE.pack(len(meta)) + meta + snapshot.blob
    count = -(-len(body) // piece_bytes)
    for piece in range(count):
        key = _KEY.pack(snapshot.partition, snapshot.generation, snapshot.number % SLOTS, piece)
        content = body[piece * piece_bytes : (piece + 1) * piece_bytes]
        fields = (FORMAT_VERSION, snapshot.generation, snapshot.number, piece, count, fence)
        yield key, _HEADER.pack(*fields, _checksum(key, fields, content)) + content


def _checksum(key: bytes, fields: tuple[int, ...], content: bytes) -> int:
    return crc32(content, crc32(_HEADER.pack(*fields, 0), crc32(key)))


@dataclass(slots=True)
class Assembler:
    """Puts the snapshots of one partition together again from its messages, in their order.

    Attributes
    ----------
    keys : dict
        Every key that stands on the topic, with its generation.
    faults : list of str
        What was wrong with pieces that were left out.
    """

    partition: int
    keys: dict[bytes, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    _pieces: dict[tuple[int, int], dict[int, bytes]] = field(default_factory=dict)
    _counts: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, key: bytes, value: bytes | None) -> None:
        """Take one message of the topic.

        Raises
        ------
        StateVersionError
            If another version of this program wrote it.
        """
        if value is None:
            self._forget(key)
            return
        version = _VERSION.unpack_from(value)[0] if len(value) >= _VERSION.size else None
        if len(key) != _KEY.size or version is None:
            self.faults.append(f"a message of {len(value)} bytes is no piece of a snapshot")
            return
        if version != FORMAT_VERSION:
            raise StateVersionError(
                f"the state of partition {self.partition}",
                f"its snapshots have format {version}, this version reads format {FORMAT_VERSION}",
                "Run the version that wrote it, or delete the state topic to begin anew",
            )
        self._take(key, value)

    def _take(self, key: bytes, value: bytes) -> None:
        self.keys[key] = _KEY.unpack(key)[1]
        if len(value) < _HEADER.size:
            self.faults.append(f"a piece of {len(value)} bytes is shorter than its header")
            return
        *fields, checksum = _HEADER.unpack_from(value)
        _, generation, number, piece, count, _ = fields
        content = value[_HEADER.size :]
        if checksum != _checksum(key, tuple(fields), content):
            self.faults.append(f"piece of a snapshot of generation {_KEY.unpack(key)[1]}: wrong checksum")
            return
        for other in [o for o in self._pieces if o[0] == generation and o[1] <= number - SLOTS]:
            del self._pieces[other]
        self._pieces.setdefault((generation, number), {})[piece] = content
        self._counts[generation, number] = count

    def _forget(self, key: bytes) -> None:
        generation = self.keys.pop(key, None)
        for name in [n for n in self._pieces if n[0] == generation]:
            _, _, slot, piece = _KEY.unpack(key)
            if name[1] % SLOTS == slot:
                self._pieces[name].pop(piece, None)

    def snapshots(self) -> Iterable[Snapshot]:
        """Yield the complete snapshots, newest first; names the incomplete ones in `faults`."""
        for generation, number in sorted(self._pieces, reverse=True):
            pieces = self._pieces[generation, number]
            count = self._counts[generation, number]
            if len(pieces) < count:
                self.faults.append(
                    f"snapshot {number} of generation {generation} has {len(pieces)} of {count} pieces"
                )
                continue
            body = b"".join(pieces[i] for i in range(count))
            (size,) = _META_SIZE.unpack_from(body)
            start = _META_SIZE.size + size
            meta = msgspec.json.decode(body[_META_SIZE.size : start], type=SnapshotMeta)
            yield Snapshot(
                partition=self.partition, generation=generation, number=number, meta=meta, blob=body[start:]
            )

    @property
    def highest_generation(self) -> int:
        """The highest generation that wrote, or 0."""
        return max(self.keys.values(), default=0)
