"""Binary records and micro-batches to columns, and what may be wrong with an event in them.

The bytes are described in `sinks.serving.formats` and deploy/docs/formats.md. Kernels copy columns; forms are
checked on whole columns afterwards. A message that is not of its format's form (length, counts, magic) is
refused as a whole; a bad event in a micro-batch is refused alone.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from detectors.batch import ABSENT, SKETCH_SIZE, EventBatch
from detectors.kernelcache import njit
from sinks.records import NAME_FORM
from sinks.serving.formats import FLOATS, INTEGERS, NAMES, SKETCHES
from streams.formats.base import EARLIEST_MS, LARGEST, Fault, Limits, Rejection
from streams.formats.batches import Decoded
from streams.formats.careful import WIRE_NAMES
from streams.formats.names import renumber
from streams.recordblock import OFFSET, PARTITION, RecordBlock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

BAD_NAME, NO_NAME = -2, -3
"""Stand in a column of names for one that is not of a name's form, and for an index that points nowhere."""
_NAME = re.compile(NAME_FORM)
_INT63 = np.uint64(2**63 - 1)
_MOST_INTEGER = np.array([LARGEST[name] for name in INTEGERS], np.int32)
_MOST_FLOAT = np.array([LARGEST[name] for name in FLOATS], np.float32)


class EventColumns:
    """Columns of n events as they are filled, all of every column, before they are checked.

    Parameters
    ----------
    n : int
        Events.
    """

    def __init__(self, n: int) -> None:
        self.message = np.empty(n, np.int64)
        self.row = np.empty(n, np.int64)
        """Which event of its message, -1 where it is the only one."""
        self.key = np.empty((n, 2), np.uint64)
        self.key_epoch = np.empty(n, np.uint16)
        self.time_ms = np.empty(n, np.int64)
        self.prefix_hash = np.empty(n, np.uint64)
        self.integers = np.empty((len(INTEGERS), n), np.int32)
        self.floats = np.empty((len(FLOATS), n), np.float32)
        self.names = np.empty((len(NAMES), n), np.int32)
        """By the numbers of `NameTable`."""
        self.sketches = [np.empty((n, SKETCH_SIZE), np.float32) for _ in SKETCHES]
        self.infinite = np.empty((len(SKETCHES), n), np.bool_)
        """Where a sketch holds a number that is not finite."""

    def finish(self, block: RecordBlock, names: list[NameTable], limits: Limits) -> Decoded:
        """Check all events; return the good ones and say what is wrong with the others."""
        if self._is_good(limits):
            return Decoded(self._batch(block, names, slice(None)), self.message, [])
        wrong = np.zeros(len(self.message), np.bool_)
        faults: dict[int, Fault] = {}
        for bad, fault in self._faults(limits):
            for event in np.flatnonzero(bad & ~wrong).tolist():
                faults[event] = fault
            wrong |= bad
        rejections = [self._reject(block, event, faults[event]) for event in np.flatnonzero(wrong).tolist()]
        good = np.flatnonzero(~wrong)
        if len(rejections) == len(wrong):
            return Decoded(None, np.empty(0, np.int64), rejections)
        return Decoded(self._batch(block, names, good), self.message[good], rejections)

    def _is_good(self, limits: Limits) -> bool:
        """Tell whether `_faults` would find nothing; nearly always so, and many times as fast to tell."""
        return len(self.message) > 0 and bool(
            _is_good(
                self.time_ms,
                limits.latest_ms,
                self.names,
                self.integers,
                _MOST_INTEGER,
                self.floats,
                _MOST_FLOAT,
                self.prefix_hash,
                self.infinite,
            )
        )

    def _faults(self, limits: Limits) -> Iterator[tuple[NDArray[np.bool_], Fault]]:
        """Yield what may be wrong, and with which events; the first that is found is told."""
        form = ": expected milliseconds since 1970, in 2000 or later (were seconds sent?)"
        yield self.time_ms < EARLIEST_MS, ("time_absurd", f".time_ms{form}")
        form = f": expected at most {limits.max_ahead_ms / 1000:g} s ahead of the worker's clock"
        yield self.time_ms > limits.latest_ms, ("time_ahead", f".time_ms{form}")
        form = ": expected 1 to 128 characters, none of them a control character"
        for at, name in enumerate(NAMES):
            if at == 0:
                yield self.names[at] == ABSENT, ("missing_field", f".{WIRE_NAMES[name]}: expected a name")
            yield self.names[at] == BAD_NAME, ("wrong_value", f".{WIRE_NAMES[name]}{form}")
            index = f".{WIRE_NAMES[name]}: expected an index into the message's names"
            yield self.names[at] == NO_NAME, ("wrong_value", index)
        for at, name in enumerate(INTEGERS):
            bad = self.integers[at] < ABSENT
            bad |= self.integers[at] > LARGEST[name]
            yield (
                bad,
                ("wrong_value", f".{WIRE_NAMES[name]}: expected -1 (absent) or a count within its limit"),
            )
        for at, name in enumerate(FLOATS):
            bad = (self.floats[at] < 0) | (self.floats[at] > LARGEST[name])
            yield (
                bad,
                ("wrong_value", f".{WIRE_NAMES[name]}: expected 0 to {LARGEST[name]:g}, or NaN (absent)"),
            )
        yield self.prefix_hash > _INT63, ("wrong_value", ".prefix_hash: expected at most 63 bits")
        for at, name in enumerate(SKETCHES):
            yield self.infinite[at], ("not_finite", f".{name}: expected {SKETCH_SIZE} finite numbers")

    def _reject(self, block: RecordBlock, event: int, fault: Fault) -> tuple[int, Rejection]:
        message, row = int(self.message[event]), int(self.row[event])
        place = "$" if row < 0 else f"$[{row}]"
        return message, Rejection(
            reason=fault[0], detail=place + fault[1], message=block[message], row=None if row < 0 else row
        )

    def _batch(self, block: RecordBlock, names: list[NameTable], good: Any) -> EventBatch:
        columns: dict[str, Any] = {name: self.integers[at, good] for at, name in enumerate(INTEGERS)}
        columns |= {name: self.floats[at, good] for at, name in enumerate(FLOATS)}
        columns |= {name: self.sketches[at][good] for at, name in enumerate(SKETCHES)}
        for at, name in enumerate(NAMES):
            columns[name], columns[f"{name}s"] = renumber(self.names[at, good], names[at].texts)
        message = self.message[good]
        return EventBatch(
            key=self.key[good],
            key_epoch=self.key_epoch[good],
            time_ms=self.time_ms[good],
            prefix_hash=self.prefix_hash[good],
            partition=block.spans[PARTITION].take(message).astype(np.int32),
            offset=block.spans[OFFSET].take(message),
            topic=block.topic,
            **columns,
        )


class NameTable:
    """Names of one kind, numbered over all messages of a block."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._texts: list[str] = []

    @property
    def texts(self) -> tuple[str, ...]:
        """The names by their numbers."""
        return tuple(self._texts)

    def number(self, name: bytes) -> int:
        """Return a name's number, `BAD_NAME` if it is not of a name's form."""
        known = self._numbers.get(name)
        if known is None:
            known = self._numbers[name] = self._add(name)
        return known

    def _add(self, name: bytes) -> int:
        try:
            text = name.decode()
        except UnicodeDecodeError:
            return BAD_NAME
        if not _NAME.search(text):
            return BAD_NAME
        self._texts.append(text)
        return len(self._texts) - 1


def refuse(block: RecordBlock, row: int, fault: Fault) -> tuple[int, Rejection]:
    """Refuse a whole message."""
    return row, Rejection(reason=fault[0], detail=fault[1], message=block[row])


@njit(cache=True, nogil=True)
def _is_good(
    time_ms: NDArray[np.int64],
    latest_ms: int,
    names: NDArray[np.int32],
    integers: NDArray[np.int32],
    most_integer: NDArray[np.int32],
    floats: NDArray[np.float32],
    most_float: NDArray[np.float32],
    prefix_hash: NDArray[np.uint64],
    infinite: NDArray[np.bool_],
) -> bool:
    """Tell whether no column holds anything that `EventColumns._faults` would yield."""
    wrong = 0
    for i in range(len(time_ms)):
        wrong += (time_ms[i] < EARLIEST_MS) | (time_ms[i] > latest_ms) | (prefix_hash[i] > _INT63)
    for at in range(len(names)):
        least = np.int32(ABSENT + 1 if at == 0 else ABSENT)
        for i in range(len(time_ms)):
            wrong += names[at, i] < least
    for at in range(len(integers)):
        for i in range(len(time_ms)):
            wrong += (integers[at, i] < ABSENT) | (integers[at, i] > most_integer[at])
    for at in range(len(floats)):
        for i in range(len(time_ms)):
            wrong += (floats[at, i] < 0) | (floats[at, i] > most_float[at])
    for at in range(len(infinite)):
        for i in range(len(time_ms)):
            wrong += infinite[at, i]
    return wrong == 0
