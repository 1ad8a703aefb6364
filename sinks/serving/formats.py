"""The binary formats of the events topic: one event a message, and many events a message as columns.

What a serving process writes; `streams.formats` reads it. deploy/docs/formats.md describes every byte, and
tests/streams/formats/golden holds messages that every later version must read. All numbers are little-endian.
"""

from __future__ import annotations

import binascii
import struct
from typing import TYPE_CHECKING

import numpy as np

from detectors.batch import ABSENT, parse_key_reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sinks.records import ServingEvent

FORMAT_HEADER = "mw-format"
"""Kafka header that names a message's format; a message without it is JSON."""
JSON, RECORD, COLUMNS = b"json", b"record.v1", b"columns.v1"

INTEGERS = (
    "predicted_class",
    "prompt_tokens",
    "completion_tokens",
    "max_tokens",
    "top_logprobs",
    "logit_bias_count",
    "choice_count",
)
FLOATS = ("top1", "margin", "entropy_nats", "temperature")
NAMES = ("model", "tenant", "plan")
SKETCHES = ("input_sketch", "embedding_sketch")
SKETCH_BYTES = 64
ABSENT_SKETCH = np.full(SKETCH_BYTES // 2, 0x7E00, "<u2").tobytes()
"""Stands in a column of sketches where an event has none: 32 times "not a number"."""
ABSENT_NAME = 0xFFFF
"""Stands in a column of names where an event has none."""
MAX_NAME_BYTES = 255

RECORD_VERSION = 1
RECORD_STRUCT = struct.Struct("<BBH16sqQ7i4f4B")
"""Version, flags (1 input sketch, 2 embedding sketch), key epoch, the key's HMAC, time in ms, prefix hash,
`INTEGERS`, `FLOATS`, sizes of the three names in bytes, zero. Sketches and names follow, in that order."""

COLUMNS_MAGIC = b"MWB1"
COLUMNS_STRUCT = struct.Struct("<4sIII")
"""Magic, number of events, which optional columns there are (bits of `OPTIONAL`), bytes of the names."""
MIN_EVENTS, MAX_EVENTS = 1, 4096
OPTIONAL = ("tenant", "plan", *SKETCHES, *INTEGERS, *FLOATS, "prefix_hash")
"""Optional columns in their order, behind key (16 bytes), key epoch (2), time (8) and model (2)."""


def encode_record(event: ServingEvent) -> bytes:
    """Write one event as a binary record.

    Raises
    ------
    ValueError
        If a name has more than 255 bytes, or a sketch or the key reference is malformed.
    """
    epoch, digest = _key(event.key)
    sketches = [_sketch(getattr(event, name)) for name in SKETCHES]
    names = [_name(getattr(event, name)) for name in NAMES]
    fixed = RECORD_STRUCT.pack(
        RECORD_VERSION,
        sum(1 << at for at, sketch in enumerate(sketches) if sketch),
        epoch,
        digest,
        event.time_ms,
        event.prefix_hash or 0,
        *(_or(getattr(event, name), ABSENT) for name in INTEGERS),
        *(_or(getattr(event, name), np.nan) for name in FLOATS),
        *map(len, names),
        0,
    )
    return b"".join([fixed, *sketches, *names])


def encode_columns(events: Sequence[ServingEvent]) -> bytes:
    """Write 1 to 4,096 events as one micro-batch.

    Raises
    ------
    ValueError
        If their number is out of range, a name has more than 255 bytes, or a sketch or a key reference is
        malformed.
    """
    if not MIN_EVENTS <= len(events) <= MAX_EVENTS:
        raise ValueError(f"a micro-batch has {MIN_EVENTS} to {MAX_EVENTS} events, not {len(events)}")
    keys = [_key(event.key) for event in events]
    tables, indices = zip(*(_table([getattr(e, name) for e in events]) for name in NAMES), strict=True)
    columns = [
        b"".join(digest for _, digest in keys),
        np.array([epoch for epoch, _ in keys], "<u2").tobytes(),
        np.array([event.time_ms for event in events], "<i8").tobytes(),
        indices[0],
    ]
    mask = 0
    for bit, name in enumerate(OPTIONAL):
        values = [getattr(event, name) for event in events]
        if any(value is not None for value in values):
            mask |= 1 << bit
            columns.append(indices[NAMES.index(name)] if name in NAMES else _column(name, values))
    names = b"".join(tables)
    return b"".join([COLUMNS_STRUCT.pack(COLUMNS_MAGIC, len(events), mask, len(names)), names, *columns])


def _column(name: str, values: Sequence[object]) -> bytes:
    if name in SKETCHES:
        return b"".join(_sketch(value) or ABSENT_SKETCH for value in values)  # type: ignore[arg-type]
    dtype, absent = ("<f4", np.nan) if name in FLOATS else ("<i4", ABSENT)
    if name == "prefix_hash":
        dtype, absent = "<u8", 0
    return np.array([_or(value, absent) for value in values], dtype).tobytes()


def _or(value: object, absent: float) -> object:
    return absent if value is None else value


def _table(names: Sequence[str | None]) -> tuple[bytes, bytes]:
    """Return the distinct names, as they are written, and every event's index."""
    distinct = dict.fromkeys(name for name in names if name is not None)
    index: dict[str | None, int] = {name: at for at, name in enumerate(distinct)}
    index[None] = ABSENT_NAME
    texts = [_name(name) for name in distinct]
    table = struct.pack("<H", len(texts)) + b"".join(bytes([len(text)]) + text for text in texts)
    return table, np.array([index[name] for name in names], "<u2").tobytes()


def _key(reference: str) -> tuple[int, bytes]:
    epoch, high, low = parse_key_reference(reference)
    return epoch, struct.pack(">QQ", high, low)


def _sketch(text: str | None) -> bytes:
    raw = b"" if text is None else binascii.a2b_base64(text, strict_mode=True)
    if len(raw) not in {0, SKETCH_BYTES}:
        raise ValueError(f"a sketch has {SKETCH_BYTES} bytes, not {len(raw)}")
    return raw


def _name(name: str | None) -> bytes:
    text = (name or "").encode()
    if len(text) > MAX_NAME_BYTES:
        raise ValueError(f"a name has at most {MAX_NAME_BYTES} bytes in a binary format, not {len(text)}")
    return text
