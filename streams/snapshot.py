"""The form of a state snapshot on the compacted topics `state` and `snapshots`.

A pipeline's state comes in named parts. A snapshot of one source partition is a *manifest*, one record on
`snapshots`, and the parts that it names, in pieces on `state`. Parts that did not change since the snapshot
before stay where they are; the manifest says at which offsets every part stands, so a restore reads those and
nothing else, however much lies between them.

Writing snapshot n:

1. A *plan*, one record on `snapshots`: every key of `state` that may be in use from now on.
2. The pieces of the parts that changed, on `state`, under (generation, part, slot, piece). A part goes into
   the first of three slots that neither snapshot n-1 nor n-2 uses. So compaction, which keeps the newest
   record of each key, keeps both of them whole whatever happens to n.
3. Once all pieces, and all outputs made before the capture, are stored: the manifest, under (generation, n
   modulo 3). From the moment it is stored, n is complete; nothing written before that can destroy n-1 or n-2.
4. Tombstones for the keys that neither n nor n-1 uses: of parts that are gone, and once two snapshots of a
   generation are complete, of all earlier generations, by their plans.

A partition of which nothing is stored begins with a manifest of number 0 without parts: where the empty state
stands. So there is something to go back to from the first snapshot on.

Restoring takes the highest complete (generation, number) all of whose parts are there and match their
checksums. One that is damaged is named, and the one before it is taken: events are read again from there.

The generation rises with every restore and is part of every key, so a stalled worker that wakes up late
writes under keys of its own; and the first snapshot of a generation stores every part, for what an earlier
generation wrote may be overwritten by such a worker at any time.
"""

from __future__ import annotations

import secrets
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from crc32c import crc32c

from sinks.policytopic import PolicyInForce  # noqa: TC001 - msgspec reads the annotations at run time
from streams.errors import StateVersionError
from streams.outputs import Output  # noqa: TC001 - same

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

FORMAT_VERSION = 2
PIECE_BYTES = 960 * 1024
"""Below the megabyte that brokers take in one record by default."""
SLOTS = 3
_LOT_BITS = 32
_PLAN_SLOT = 255

_PIECE_KEY = struct.Struct(">qBI")
"""Generation, slot, piece; the part's name follows."""
_RECORD_KEY = struct.Struct(">qB")
"""Generation, slot (of a manifest) or 255 (of the plan)."""
_HEAD = struct.Struct(">HI")
"""Format version, CRC-32C of key and content; JSON follows."""


class Stored(NamedTuple):
    """What became of one part."""

    size_bytes: int
    checksum: int
    offsets: tuple[int, ...]


class PartEntry(msgspec.Struct, frozen=True, array_like=True):
    """Where one part of a snapshot stands."""

    slot: int
    size_bytes: int
    checksum: int
    """CRC-32C of the part."""
    offsets: tuple[int, ...]
    """On the state topic, of its pieces."""


class SnapshotMeta(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot says about itself."""

    fences: dict[str, int]
    """By source topic: offset of the last record that the state contains."""
    outputs: dict[str, int]
    """By output topic: everything made after this snapshot stands at this offset or later."""
    policy: PolicyInForce | None = None
    """The policy under which the events after this snapshot are processed, until the next one."""
    held: tuple[Output, ...] = ()
    """Outputs that may be written once this snapshot is durable, and not before."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, tag="manifest"):
    """One complete snapshot of one source partition."""

    generation: int
    number: int
    """Counts the snapshots of a generation, from 1; 0 is the empty state with which it began."""
    meta: SnapshotMeta
    parts: dict[str, PartEntry]

    @property
    def size_bytes(self) -> int:
        """Bytes of all parts."""
        return sum(entry.size_bytes for entry in self.parts.values())


class Plan(msgspec.Struct, frozen=True, kw_only=True, tag="plan"):
    """Which keys of the state topic a generation may have written, for whoever cleans up after it."""

    generation: int
    pieces: dict[str, tuple[int, ...]]
    """By part: how many pieces may stand in each slot."""

    def keys(self) -> Iterator[bytes]:
        """Yield them."""
        for name, counts in self.pieces.items():
            for slot, count in enumerate(counts):
                for piece in range(count):
                    yield piece_key(self.generation, name, slot, piece)


def next_generation(group_generation: int, highest: int) -> int:
    """Return a state generation above `highest`, the one found, and above those of earlier group generations.

    Its low half is drawn by lot: two processes that share a group generation (one of them a static member
    that was replaced while it was stalled) must not write under the same keys.
    """
    epoch = max(group_generation, (highest >> _LOT_BITS) + 1)
    return (epoch << _LOT_BITS) + secrets.randbits(_LOT_BITS)


def piece_key(generation: int, name: str, slot: int, piece: int) -> bytes:
    """Return the key of one piece on the state topic."""
    return _PIECE_KEY.pack(generation, slot, piece) + name.encode()


def piece_count(size_bytes: int) -> int:
    """Tell how many pieces a part makes; an empty one makes one."""
    return max(1, -(-size_bytes // PIECE_BYTES))


def encode_record(record: Manifest | Plan) -> tuple[bytes, bytes]:
    """Return the key and the value of a record of the topic `snapshots`."""
    slot = _PLAN_SLOT if isinstance(record, Plan) else record.number % SLOTS
    key = _RECORD_KEY.pack(record.generation, slot)
    content = msgspec.json.encode(record)
    return key, _HEAD.pack(FORMAT_VERSION, crc32c(content, crc32c(key))) + content


def decode_record(key: bytes, value: bytes) -> Manifest | Plan | str:
    """Return the record, or what is wrong with it.

    Raises
    ------
    StateVersionError
        If another version of this program wrote it.
    """
    if len(value) < _HEAD.size or len(key) != _RECORD_KEY.size:
        return f"a record of {len(value)} bytes is no snapshot"
    version, checksum = _HEAD.unpack_from(value)
    content = value[_HEAD.size :]
    if version != FORMAT_VERSION:
        raise other_format(version)
    if checksum != crc32c(content, crc32c(key)):
        return f"record of generation {_RECORD_KEY.unpack(key)[0]}: wrong checksum"
    try:
        return msgspec.json.decode(content, type=Manifest | Plan)
    except msgspec.DecodeError as error:
        return f"record of generation {_RECORD_KEY.unpack(key)[0]}: {error}"


def other_format(version: int) -> StateVersionError:
    """Make the error for snapshots that another version wrote."""
    return StateVersionError(
        "the stored state",
        f"its snapshots have format {version}, this version reads format {FORMAT_VERSION}",
        "Run the version that wrote it, or delete the topics state and snapshots to begin anew",
    )


class Piece(msgspec.Struct, frozen=True):
    """One record to write on the state topic."""

    name: str
    key: bytes
    value: memoryview


@dataclass(slots=True)
class Shelf:
    """Which slots one generation's snapshots of a partition use; pure bookkeeping, no I/O.

    Attributes
    ----------
    newest, before : dict
        Parts of the two newest complete snapshots of this generation.
    """

    generation: int
    number: int = 0
    newest: dict[str, PartEntry] = field(default_factory=dict)
    before: dict[str, PartEntry] = field(default_factory=dict)
    _standing: dict[str, list[int]] = field(default_factory=dict)
    _slots: dict[str, int] = field(default_factory=dict)

    def place(self, sizes: Mapping[str, int]) -> Plan:
        """Choose slots for parts of these sizes, and return the plan to write before them."""
        self.number += 1
        self._slots = {}
        for name, size in sizes.items():
            taken = {entries[name].slot for entries in (self.newest, self.before) if name in entries}
            slot = self._slots[name] = min(set(range(SLOTS)) - taken)
            standing = self._standing.setdefault(name, [0] * SLOTS)
            standing[slot] = max(standing[slot], piece_count(size))
        return Plan(
            generation=self.generation,
            pieces={name: tuple(counts) for name, counts in self._standing.items()},
        )

    def cut(self, name: str, part: bytes) -> Iterator[Piece]:
        """Yield the pieces of a placed part; no bytes are copied."""
        view = memoryview(part)
        for piece in range(piece_count(len(view))):
            key = piece_key(self.generation, name, self._slots[name], piece)
            yield Piece(name, key, view[piece * PIECE_BYTES : (piece + 1) * PIECE_BYTES])

    def list_parts(self, stored: Mapping[str, Stored], names: Iterable[str]) -> dict[str, PartEntry]:
        """Return the parts `names` of the snapshot being written: stored now, or where they stood."""
        fresh = {name: PartEntry(self._slots[name], *told) for name, told in stored.items()}
        return {name: fresh[name] if name in fresh else self.newest[name] for name in names}

    def complete(self, parts: dict[str, PartEntry]) -> list[bytes]:
        """Take a snapshot for complete; return the keys that no snapshot needs any more."""
        self.before, self.newest = self.newest, parts
        stale = []
        for name in [name for name in self._standing if name not in self.newest and name not in self.before]:
            counts = self._standing.pop(name)
            stale += [
                piece_key(self.generation, name, slot, piece)
                for slot, count in enumerate(counts)
                for piece in range(count)
            ]
        return stale
