"""A scanner of JSON events that knows what it does not know.

Reads a whole block of messages in one kernel, about ten times faster than one by one. It takes a message only
when it is sure that `streams.codec`'s reader would take it with the same values; everything else (escapes,
text beyond ASCII, unknown fields, fields given twice, numbers of unusual form, all that is wrong) it marks as
not sure, and that reader judges. So this module refuses nothing and explains nothing.

Numbers: a decimal of at most 19 digits, times or divided by a power of ten, gives its float64 within two
units in the last place; exactly, where both are exact (Clinger 1990). Rounded to the float32 of a column that
is the right value, unless it lies that near to the middle between two float32: then not sure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from detectors.batch import ABSENT
from detectors.kernelcache import njit
from sinks.records import ServingEvent
from sinks.serving.formats import FLOATS, INTEGERS, NAMES, SKETCHES
from streams.formats.base import LARGEST
from streams.formats.jsonnumbers import (
    MAX_DIGITS,
    POWERS,
    is_space,
    scan_digits,
    scan_float,
    skip_space,
)
from streams.formats.sketches import SKETCH_CHARS
from streams.formats.words import (
    HIGHS,
    ONES,
    is_equal,
    load1,
    load8,
    low_bytes,
    trailing_zeros,
    zero_bytes,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SCHEMA, _TIME, _KEY, _PREFIX, _INTEGER, _FLOAT, _NAME, _SKETCH = range(8)
_KINDS = {"schema": _SCHEMA, "time_ms": _TIME, "key": _KEY, "prefix_hash": _PREFIX}
_GROUPS = ((_INTEGER, INTEGERS), (_FLOAT, FLOATS), (_NAME, NAMES), (_SKETCH, SKETCHES))
_KINDS |= {name: kind for kind, names in _GROUPS for name in names}
_PLACES = {name: place for _, names in _GROUPS for place, name in enumerate(names)}
_STAGGER = 16
"""Added to the length of columns that are written side by side: at distances of a power of two they would all
fall into the same few lines of the cache."""
_WORDS = 4
_NULL = np.uint64(int.from_bytes(b"null", "little"))
_QUOTES, _BACKSLASHES, _DELETES = (np.uint64(byte) * ONES for byte in (0x22, 0x5C, 0x7F))
_SPACES = np.uint64(0x20) * ONES


_SIZE, _KIND, _PLACE, _LIMIT, _NULLABLE = range(_WORDS, _WORDS + 5)
"""Columns of `_FIELDS` behind the words of a name and its closing quote."""
_COLUMNS = _WORDS + 5


def _fields() -> NDArray[np.int64]:
    """Return what the scanner knows of the fields, by their number in `ServingEvent`."""
    rows = []
    for field in msgspec.structs.fields(ServingEvent):
        text = field.encode_name.encode() + b'"'
        words = np.frombuffer(text.ljust(8 * _WORDS, b"\0"), "<i8").tolist()
        place, limit = _PLACES.get(field.name, 0), LARGEST.get(field.name, 0)
        rows.append([*words, len(text), _KINDS[field.name], place, limit, int(field.default is None)])
    return np.array(rows, np.int64)


_FIELDS = _fields()
_REQUIRED = sum(1 << at for at, field in enumerate(msgspec.structs.fields(ServingEvent)) if field.required)
"""Bits of the fields that must be there."""
_TIMES, _PREFIXES, _NAME_START, _NAME_SIZE, _SKETCH_START = 0, 1, 2, 5, 8
_WIDE_ROWS = 10
"""Rows of the scanner's widest columns: time, prefix hash, three names, their sizes, two sketches."""


class Scanned(NamedTuple):
    """Columns of n messages; only rows that are sure mean anything. Absent values as in `EventBatch`."""

    sure: NDArray[np.bool_]
    key: NDArray[np.uint64]
    key_epoch: NDArray[np.uint16]
    integers: NDArray[np.int32]
    """(7, n), in the order of `INTEGERS`."""
    floats: NDArray[np.float32]
    """(4, n), in the order of `FLOATS`."""
    wide: NDArray[np.int64]

    @property
    def time_ms(self) -> NDArray[np.int64]:
        """(n,)."""
        times: NDArray[np.int64] = self.wide[_TIMES]
        return times

    @property
    def prefix_hash(self) -> NDArray[np.uint64]:
        """(n,)."""
        hashes: NDArray[np.uint64] = self.wide[_PREFIXES].view(np.uint64)
        return hashes

    @property
    def name_start(self) -> NDArray[np.int64]:
        """(3, n), in the order of `NAMES`: places in the buffer."""
        return self.wide[_NAME_START:_NAME_SIZE]

    @property
    def name_size(self) -> NDArray[np.int64]:
        """(3, n): bytes, -1 where absent."""
        return self.wide[_NAME_SIZE:_SKETCH_START]

    @property
    def sketch_start(self) -> NDArray[np.int64]:
        """(2, n), in the order of `SKETCHES`: places of base64, its form not checked yet; -1 where absent."""
        return self.wide[_SKETCH_START:]


def scan_json(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    *,
    earliest_ms: int,
    latest_ms: int,
    max_bytes: int,
) -> Scanned:
    """Scan messages that lie in a padded buffer.

    Parameters
    ----------
    data : uint8
        Ends with `streams.recordblock.PADDING`.
    starts, sizes : int64 (n,)
        Where the messages lie; a size below 1 is not sure.
    earliest_ms, latest_ms : int
        Times outside are not sure.
    max_bytes : int
        Larger messages are not sure.
    """
    n = len(starts)
    scanned = Scanned(
        sure=np.zeros(n, np.bool_),
        key=np.empty((n, 2), np.uint64),
        key_epoch=np.empty(n, np.uint16),
        integers=np.empty((len(INTEGERS), n + _STAGGER), np.int32)[:, :n],
        floats=np.empty((len(FLOATS), n + _STAGGER), np.float32)[:, :n],
        wide=np.empty((_WIDE_ROWS, n + _STAGGER), np.int64)[:, :n],
    )
    follows = np.arange(1, len(_FIELDS) + 1) % len(_FIELDS)
    limits = np.array([earliest_ms, latest_ms, max_bytes], np.int64)
    _scan(data, starts, sizes, _FIELDS, POWERS, follows, limits, *scanned)
    return scanned


@njit(cache=True, nogil=True)
def _scan(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    fields: NDArray[np.int64],
    powers: NDArray[np.float64],
    follows: NDArray[np.int64],
    limits: NDArray[np.int64],
    sure: NDArray[np.bool_],
    key: NDArray[np.uint64],
    epoch: NDArray[np.uint16],
    integers: NDArray[np.int32],
    floats: NDArray[np.float32],
    wide: NDArray[np.int64],
) -> None:
    """Scan every message; `follows` remembers which field follows which, for senders keep an order."""
    base, table = np.int64(data.ctypes.data), np.int64(fields.ctypes.data)
    for row in range(len(starts)):
        if sizes[row] < 1 or sizes[row] > limits[2]:
            continue
        for place in range(len(integers)):
            integers[place, row] = ABSENT
        for place in range(len(floats)):
            floats[place, row] = np.nan
        for place in range(len(wide)):
            wide[place, row] = 0 if place < _NAME_START else -1
        start = base + starts[row]
        end = start + sizes[row]
        at, field, seen, is_last = _open_object(start), len(follows) - 1, np.int64(0), False
        while 0 <= at < end and not is_last:
            before = field
            field, at = _scan_name_of_field(at, table, len(fields), follows[before])
            follows[before] = field
            if at < 0 or at >= end or seen >> field & 1:
                at = np.int64(-1)
                break
            seen |= np.int64(1) << field
            kind, place = fields[field, _KIND], fields[field, _PLACE]
            if load1(at) == 110 and fields[field, _NULLABLE]:  # n
                at = at + 4 if low_bytes(load8(at), 4) == _NULL else np.int64(-1)
            elif kind == _FLOAT:
                value, at = scan_float(at, powers, np.float64(fields[field, _LIMIT]))
                floats[place, row] = value
            elif kind == _SKETCH:
                wide[_SKETCH_START + place, row] = at + 1 - base
                at = _skip_sketch(at, end)
            elif kind == _NAME:
                size = _scan_name(at, end)
                wide[_NAME_START + place, row], wide[_NAME_SIZE + place, row] = at + 1 - base, size
                at = at + size + 2 if size >= 1 else np.int64(-1)
            elif kind == _KEY:
                epoch[row], key[row, 0], key[row, 1], at = _scan_key(at)
            else:
                number, at = _scan_integer(at, kind, fields[field, _LIMIT])
                if kind == _INTEGER:
                    integers[place, row] = np.int32(number)
                elif kind != _SCHEMA:
                    wide[_TIMES if kind == _TIME else _PREFIXES, row] = np.int64(number)
            at, is_last = _scan_separator(at, end)
        sure[row] = (
            is_last
            and at == end
            and seen & _REQUIRED == _REQUIRED
            and limits[0] <= wide[_TIMES, row] <= limits[1]
        )


@njit(inline="always")
def _open_object(at: Any) -> Any:
    """Return the place behind the opening brace, -1 if there is none."""
    at = skip_space(at)
    return at + 1 if load1(at) == 123 else np.int64(-1)


@njit(inline="always")
def _scan_separator(at: Any, end: Any) -> Any:
    """Pass what stands behind a value: the place behind it and whether the object ends; -1 if not sure."""
    if at < 0 or at >= end:
        return np.int64(-1), True
    at = skip_space(at)
    if load1(at) == 44:  # ,
        return at + 1, False
    if load1(at) != 125:  # }
        return np.int64(-1), True
    at += 1
    while at < end and is_space(load1(at)):
        at += 1
    return at, True


@njit(inline="always")
def _scan_name_of_field(at: Any, table: Any, fields: Any, likely: Any) -> Any:
    """Read a field's name and the colon: its number and the place of its value; -1 for that if not sure."""
    at = skip_space(at)
    field = likely
    if load1(at) != 34:  # "
        return field, np.int64(-1)
    at += 1
    if not _is_field(at, table + 8 * _COLUMNS * field):
        field = np.int64(0)
        while field < fields and not _is_field(at, table + 8 * _COLUMNS * field):
            field += 1
        if field == fields:
            return likely, np.int64(-1)
    at = skip_space(at + np.int64(load8(table + 8 * (_COLUMNS * field + _SIZE))))
    if load1(at) != 58:  # :
        return field, np.int64(-1)
    return field, skip_space(at + 1)


@njit(inline="always")
def _is_field(at: Any, known: Any) -> Any:
    """Compare what stands at a place with the name in a row of `_FIELDS`, given by its address."""
    return is_equal(at, known, np.int64(load8(known + 8 * _SIZE)))


@njit(inline="always")
def _skip_sketch(at: Any, end: Any) -> Any:
    """Return the place behind a text of a sketch's length, -1 if it is none; its form is checked later."""
    behind = at + SKETCH_CHARS + 2
    is_text = behind <= end and load1(at) == 34 and load1(behind - 1) == 34
    return behind if is_text else np.int64(-1)


@njit(inline="always")
def _scan_integer(at: Any, kind: Any, limit: Any) -> Any:
    """Read a whole number and its end; -1 for the place where it is not sure."""
    digits, value, at = scan_digits(at)
    if kind == _SCHEMA:
        is_sure = digits == 1 and value == np.uint64(1)
    elif kind == _TIME:
        is_sure = 0 < digits <= 15
    elif kind == _PREFIX:
        is_sure = 0 < digits <= MAX_DIGITS and value <= np.uint64(0x7FFFFFFFFFFFFFFF)
    else:
        is_sure = 0 < digits <= 10 and value <= np.uint64(limit)
    return value, at if is_sure else np.int64(-1)


@njit(inline="always")
def _scan_name(at: Any, end: Any) -> Any:
    """Return the size of a text of 1 to 128 printable ASCII characters without escapes, -1 if not sure."""
    if load1(at) != 34:
        return np.int64(-1)
    start = at + 1
    for step in range(0, 136, 8):
        if start + step >= end:
            return np.int64(-1)
        word = load8(start + step)
        stops = zero_bytes(word ^ _QUOTES) | zero_bytes(word ^ _BACKSLASHES) | zero_bytes(word ^ _DELETES)
        stops |= ((word - _SPACES) & ~word & HIGHS) | (word & HIGHS)
        if stops != 0:
            size = step + np.int64(trailing_zeros(stops) >> np.uint64(3))
            return size if load1(start + size) == 34 and size <= 128 else np.int64(-1)
    return np.int64(-1)


@njit(inline="always")
def _scan_key(at: Any) -> Any:
    """Read `"k<epoch>-<32 hex digits>"`: epoch, both halves, and the place behind; -1 if it is not that."""
    wrong = np.uint64(load1(at) ^ 34) | np.uint64(load1(at + 1) ^ 107)  # "k
    at += 2
    start, epoch = at, np.int64(0)
    while 48 <= load1(at) <= 57 and at - start < 6:
        epoch = epoch * 10 + np.int64(load1(at) - 48)
        at += 1
    is_canonical = at > start and (load1(start) != 48 or at == start + 1) and epoch <= 0xFFFF
    wrong |= np.uint64(load1(at) ^ 45) | np.uint64(load1(at + 33) ^ 34)  # -, "
    a, wrong_a = _hex8(load8(at + 1))
    b, wrong_b = _hex8(load8(at + 9))
    c, wrong_c = _hex8(load8(at + 17))
    d, wrong_d = _hex8(load8(at + 25))
    is_sure = is_canonical and (wrong | wrong_a | wrong_b | wrong_c | wrong_d) == 0
    behind = at + 34 if is_sure else np.int64(-1)
    return np.uint16(epoch), a << np.uint64(32) | b, c << np.uint64(32) | d, behind


@njit(inline="always")
def _hex8(word: Any) -> Any:
    """Return the number that eight lower-case hex digits stand for, and marks where one is none."""
    low = np.uint64(0x0F0F0F0F0F0F0F0F)
    letters = (word & (np.uint64(0x40) * ONES)) >> np.uint64(6)  # 1 in the bytes from 0x40 up
    nibbles = (word & low) + letters * np.uint64(9)
    back = nibbles + np.uint64(0x30) * ONES + letters * np.uint64(0x27)  # the text that these digits have
    is_ten = ((nibbles + np.uint64(0x76) * ONES) ^ (letters << np.uint64(7))) & HIGHS  # but no letter, or not
    bad = (back ^ word) | is_ten | ((nibbles + np.uint64(0x70) * ONES) & HIGHS)
    pairs = (nibbles << np.uint64(4) | nibbles >> np.uint64(8)) & np.uint64(0x00FF00FF00FF00FF)
    fours = (pairs << np.uint64(8) | pairs >> np.uint64(16)) & np.uint64(0x0000FFFF0000FFFF)
    eight = (fours << np.uint64(16) | fours >> np.uint64(32)) & np.uint64(0xFFFFFFFF)
    return eight, bad
