"""The audit chain: a partition's alerts, decisions and people's words, each sealed with the one before.

Making it is pure and deterministic: the head is part of the pipeline's state, so after a crash the same
entries are made again, byte for byte, and the chain goes on where it was. Verifying needs the entries alone,
and, to know that none is missing at the end, heads that were noted elsewhere (`modelwarden audit heads`).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import msgspec

from sinks.records import AuditEntry, AuditKind, Sha256

if TYPE_CHECKING:
    from collections.abc import Mapping

GENESIS = "0" * 64
"""What stands for the entry before the first."""
_FORM = "modelwarden-audit-1"

FaultKind = Literal["malformed", "misplaced", "changed", "removed", "reordered", "forked", "cut_off"]
"""Malformed: no audit entry. Misplaced: of another partition. Changed: not what was sealed. Removed: entries
are missing before it. Reordered: it stands behind later ones. Forked: another entry has its number. Cut off:
the chain ends before a head that was noted, or never had it."""


class Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a partition's chain ends."""

    partition: int
    entries: int
    hash: Sha256 = GENESIS
    """Of the last entry."""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """A place at which the chain does not hold."""

    kind: FaultKind
    partition: int
    sequence: int
    place: str
    detail: str


def entry_hash(entry: AuditEntry) -> str:
    """Return what an entry's hash must be: SHA-256 over everything else, the record byte for byte."""
    fields = (_FORM, entry.partition, entry.sequence, entry.previous, entry.time_ms, entry.kind)
    text = "\n".join(map(str, fields)) + "\n"
    return hashlib.sha256(text.encode() + bytes(entry.record)).hexdigest()


class AuditChain:
    """Makes one partition's entries.

    Parameters
    ----------
    partition : int
    """

    def __init__(self, partition: int = 0) -> None:
        self.head = Head(partition=partition, entries=0)

    def append(self, kind: AuditKind, record: msgspec.Struct, time_ms: int) -> AuditEntry:
        """Seal a record with everything before it."""
        head = self.head
        entry = AuditEntry(
            partition=head.partition,
            sequence=head.entries,
            previous=head.hash,
            time_ms=max(time_ms, 0),
            kind=kind,
            record=msgspec.Raw(msgspec.json.encode(record)),
            hash=GENESIS,
        )
        entry = msgspec.structs.replace(entry, hash=entry_hash(entry))
        self.head = Head(partition=head.partition, entries=head.entries + 1, hash=entry.hash)
        return entry

    def dump(self) -> bytes:
        """Return the head as bytes."""
        return msgspec.msgpack.encode(self.head)

    def restore(self, blob: bytes) -> None:
        """Go on behind a dumped head. Raises msgspec.MsgspecError if it is damaged."""
        self.head = msgspec.msgpack.decode(blob, type=Head)


@dataclass(slots=True)
class _Seen:
    """What was verified of one partition."""

    next_sequence: int = 0
    hash: str = GENESIS
    by_number: dict[int, str] = field(default_factory=dict)
    missing: set[int] = field(default_factory=set)


class Verifier:
    """Reads entries in the order in which they stand, and says where a chain does not hold.

    The same entry standing there twice is no fault: a worker that was stalled and replaced may have written
    what its successor wrote too. Such are counted in `repeated`.
    """

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.repeated = 0
        self._chains: dict[int, _Seen] = defaultdict(_Seen)
        self._decoder = msgspec.json.Decoder(AuditEntry)

    @property
    def heads(self) -> list[Head]:
        """Where each partition's chain ends."""
        return [
            Head(partition=partition, entries=seen.next_sequence, hash=seen.hash)
            for partition, seen in sorted(self._chains.items())
        ]

    def add(self, value: bytes, partition: int, place: str) -> AuditEntry | None:
        """Take the next entry of a partition; return it if it can be read at all."""
        try:
            entry = self._decoder.decode(value)
        except (msgspec.MsgspecError, UnicodeError) as error:
            self._fault("malformed", partition, -1, place, str(error))
            return None
        self._check(entry, partition, place)
        return entry

    def compare_heads(self, noted: Mapping[int, Head]) -> None:
        """Look for heads that were noted before: each must be part of its chain still."""
        for partition, head in noted.items():
            found = self._chains[partition].by_number.get(head.entries - 1, GENESIS)
            if head.entries and found != head.hash:
                detail = f"entry {head.entries - 1} was noted with hash {head.hash[:16]}..., and is not there"
                self._fault("cut_off", partition, head.entries - 1, "noted heads", detail)

    def _check(self, entry: AuditEntry, partition: int, place: str) -> None:
        seen, number = self._chains[partition], entry.sequence
        if entry.partition != partition:
            self._fault("misplaced", partition, number, place, f"it belongs to partition {entry.partition}")
            return
        if entry_hash(entry) != entry.hash:
            self._fault("changed", partition, number, place, "its hash does not hold")
        if number < seen.next_sequence:
            self._check_late(entry, seen, place)
            return
        if number > seen.next_sequence:
            lost = range(seen.next_sequence, number)
            seen.missing.update(lost)
            one, last = lost.start, lost.stop - 1
            detail = f"entry {one} is missing" if one == last else f"entries {one} to {last} are missing"
            self._fault("removed", partition, number, place, detail)
        elif entry.previous != seen.hash:
            detail = f"it follows {entry.previous[:16]}..., and {seen.hash[:16]}... stands before it"
            self._fault("changed", partition, number, place, detail)
        seen.next_sequence, seen.hash, seen.by_number[number] = number + 1, entry.hash, entry.hash

    def _check_late(self, entry: AuditEntry, seen: _Seen, place: str) -> None:
        number = entry.sequence
        if seen.by_number.get(number) == entry.hash:
            self.repeated += 1
        elif number in seen.missing:
            seen.missing.discard(number)
            seen.by_number[number] = entry.hash
            self._fault("reordered", entry.partition, number, place, "it stands behind later entries")
        else:
            self._fault("forked", entry.partition, number, place, "another entry has its number")

    def _fault(self, kind: FaultKind, partition: int, sequence: int, place: str, detail: str) -> None:
        self.faults.append(
            Fault(kind=kind, partition=partition, sequence=sequence, place=place, detail=detail)
        )
