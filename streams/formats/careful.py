"""The careful reader of JSON events: it decides what is an event, and says what is wrong with the others.

Who calls it: `streams.formats.json`, with the messages that its scanner is not sure of. Nothing here raises
on what a message holds. Forms are checked a column at a time, and each distinct name once. A rejection never
repeats a value of the message, nor a field name it does not know: either may be a secret sent by mistake. It
names the path and the form expected there.
"""

from __future__ import annotations

import binascii
import re
from difflib import get_close_matches
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from detectors.batch import ABSENT, KEY_REFERENCE, SKETCH_SIZE, EventBatch, build_batch
from sinks.records import NAME_FORM, ServingEvent
from sinks.serving.formats import FLOATS, INTEGERS
from streams.formats.base import EARLIEST_MS, Fault, Limits, Rejection, size_fault

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from streams.bus.base import Message

_LOOSE: dict[str, Any] = {
    "key": str,
    "model": str,
    "tenant": str | None,
    "plan": str | None,
    "input_sketch": str | None,
    "embedding_sketch": str | None,
}
"""Fields whose form is checked by column, many times faster than by value."""

_FIELDS = msgspec.structs.fields(ServingEvent)
_WireEvent = msgspec.defstruct(
    "_WireEvent",
    [
        (f.name, _LOOSE.get(f.name, f.type), msgspec.field(default=f.default, name=f.encode_name))
        for f in _FIELDS
    ],
    kw_only=True,
    forbid_unknown_fields=True,
    gc=False,
)


class _Schema(msgspec.Struct):
    schema: Any = 1


_decode = msgspec.json.Decoder(_WireEvent).decode
_BAD_JSON = (msgspec.DecodeError, UnicodeError, RecursionError)
_NAME = re.compile(NAME_FORM)
WIRE_NAMES = {field.name: field.encode_name for field in _FIELDS}
"""Of the fields of an event, as they stand in JSON."""
_SKETCH_CHARS = 88


def read_events(
    messages: Sequence[Message], topic: str, limits: Limits
) -> tuple[EventBatch | None, list[tuple[int, Rejection]]]:
    """Read messages to a batch, in the order given (None if no message is good), and the rejected ones.

    These come with their places in `messages`, in order.
    """
    events: list[Any] = []
    rows: list[int] = []
    refused: dict[int, Rejection] = {}
    for row, message in enumerate(messages):
        fault = size_fault(len(message.value or b""), limits)
        if fault is not None:
            refused[row] = Rejection(reason=fault[0], detail=fault[1], message=message)
            continue
        try:
            events.append(_decode(message.value or b""))
        except _BAD_JSON as error:
            refused[row] = _explain(message, error)
        else:
            rows.append(row)
    batch, faults = _build(events, [messages[row] for row in rows], topic, limits)
    while faults:  # a column that cannot be read at all may hide a second kind of fault
        for at, (reason, detail) in faults.items():
            refused[rows[at]] = Rejection(reason=reason, detail=detail, message=messages[rows[at]])
        events = [event for at, event in enumerate(events) if at not in faults]
        rows = [row for at, row in enumerate(rows) if at not in faults]
        batch, faults = _build(events, [messages[row] for row in rows], topic, limits)
    return batch, sorted(refused.items())


def _build(
    events: list[Any], messages: list[Message], topic: str, limits: Limits
) -> tuple[EventBatch | None, dict[int, Fault]]:
    """Make a batch, or find the rows that keep it from being made."""
    if not events:
        return None, {}
    values = zip(*map(msgspec.structs.astuple, events), strict=True)
    raw: dict[str, tuple[Any, ...]] = dict(zip((field.name for field in _FIELDS), values, strict=True))
    columns: dict[str, Any] = {
        "time_ms": np.array(raw["time_ms"], np.int64),
        "partition": np.array([message.partition for message in messages], np.int32),
        "offset": np.array([message.offset for message in messages], np.int64),
    }
    faults = time_faults(columns["time_ms"], limits)
    columns["key"], columns["key_epoch"], bad = _read_keys(raw["key"])
    faults |= bad
    for field in ("model", "tenant", "plan"):
        columns[field], columns[f"{field}s"], bad = _read_names(raw[field], WIRE_NAMES[field])
        faults |= bad
    for field in ("input_sketch", "embedding_sketch"):
        if raw[field].count(None) < len(events):
            columns[field], bad = _read_sketches(raw[field], field)
            faults |= bad
    if faults:
        return None, faults
    for field in (*INTEGERS, *FLOATS, "prefix_hash"):
        if raw[field].count(None) < len(events):
            columns[field] = _read_numbers(raw[field], field)
    return build_batch(**columns, topic=topic), {}


def time_faults(times: NDArray[np.int64], limits: Limits) -> dict[int, Fault]:
    """Return what is wrong with the times of some events, by row."""
    form = "$.time_ms: expected milliseconds since 1970, in 2000 or later (were seconds sent?)"
    faults: dict[int, Fault] = {
        int(row): ("time_absurd", form) for row in np.flatnonzero(times < EARLIEST_MS)
    }
    form = f"$.time_ms: expected at most {limits.max_ahead_ms / 1000:g} s ahead of the worker's clock"
    faults |= {int(row): ("time_ahead", form) for row in np.flatnonzero(times > limits.latest_ms)}
    return faults


def _read_keys(column: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.uint16], dict[int, Fault]]:
    """Read key references to (n, 2) words and epochs, each distinct epoch's text once."""
    digests = "".join([key[-32:] for key in column])
    heads = {head: KEY_REFERENCE.fullmatch(head + "0" * 32) for head in {key[:-32] for key in column}}
    epochs = {head: int(match[1]) for head, match in heads.items() if match and int(match[1]) <= 0xFFFF}
    try:
        packed = bytes.fromhex(digests)
    except ValueError:
        packed = b""
    # fromhex also takes capitals and spaces; a reference has neither.
    if packed.hex() == digests and len(epochs) == len(heads):
        words = np.frombuffer(packed, ">u8").reshape(-1, 2).astype(np.uint64)
        return words, np.array([epochs[key[:-32]] for key in column], np.uint16), {}
    form = "$.key: expected k<epoch>-<32 hex digits>, as sinks.serving.keyref makes it"
    bad = [at for at, key in enumerate(column) if key[:-32] not in epochs or not KEY_REFERENCE.fullmatch(key)]
    nothing = np.empty((0, 2), np.uint64)
    return nothing, np.empty(0, np.uint16), dict.fromkeys(bad, ("key_reference", form))


def _read_names(
    column: Sequence[str | None], wire_name: str
) -> tuple[NDArray[np.int32], tuple[str, ...], dict[int, Fault]]:
    """Read names to indices into the distinct ones, in order of appearance."""
    distinct = [name for name in dict.fromkeys(column) if name is not None]
    bad = {name for name in distinct if not _NAME.search(name)}
    form = f"$.{wire_name}: expected 1 to 128 characters, none of them a control character"
    faults: dict[int, Fault] = (
        {at: ("wrong_value", form) for at, name in enumerate(column) if name in bad} if bad else {}
    )
    index: dict[str | None, int] = {None: ABSENT} | {name: at for at, name in enumerate(distinct)}
    return np.array([index[name] for name in column], np.int32), tuple(distinct), faults


def _read_sketches(column: Sequence[str | None], field: str) -> tuple[NDArray[np.float32], dict[int, Fault]]:
    """Read sketches to (n, 32), NaN where absent, decoding all of them at once."""
    present = [at for at, text in enumerate(column) if text is not None]
    texts = [text for text in column if text is not None]
    sketches = np.full((len(column), SKETCH_SIZE), np.nan, np.float32)
    decoded = _decode_sketches(texts)
    if decoded is None:
        form = f"$.{field}: expected base64 of {SKETCH_SIZE} little-endian float16, 88 characters"
        bad = [at for at, text in zip(present, texts, strict=True) if _decode_sketches([text]) is None]
        return sketches, dict.fromkeys(bad, ("sketch", form))
    finite = np.isfinite(decoded).all(axis=1)
    form = f"$.{field}: expected {SKETCH_SIZE} finite numbers"
    sketches[present] = decoded
    return sketches, {present[at]: ("not_finite", form) for at in np.flatnonzero(~finite)}


def _decode_sketches(texts: list[str]) -> NDArray[np.float32] | None:
    """Decode base64 sketches (n, 32); None if any of them is not in the one canonical form."""
    if set(map(len, texts)) != {_SKETCH_CHARS}:
        return None
    try:
        joined = np.frombuffer("".join(texts).encode("ascii"), np.uint8).reshape(-1, _SKETCH_CHARS).copy()
        padded = bool((joined[:, -2:] == ord("=")).all())
        joined[:, -2:] = ord("A")  # padding may stand only at the end of a text; zeros may stand anywhere
        raw = np.frombuffer(binascii.a2b_base64(joined.tobytes(), strict_mode=True), np.uint8)
    except (UnicodeError, binascii.Error):
        return None
    raw = raw.reshape(-1, 2 * SKETCH_SIZE + 2)
    if not padded or raw[:, -2:].any():
        return None
    return raw[:, :-2].copy().view("<f2").astype(np.float32)


def _read_numbers(column: Sequence[Any], field: str) -> NDArray[Any]:
    if field in FLOATS:
        return np.array(column, np.float32)  # None becomes NaN
    absent, dtype = (0, np.uint64) if field == "prefix_hash" else (ABSENT, np.int32)
    return np.array([absent if value is None else value for value in column], dtype)


def _explain(message: Message, error: Exception) -> Rejection:
    """Say why a message could not be decoded, in words of ours."""
    value = message.value or b""
    reason, detail = (
        _explain_json(value)
        if not isinstance(error, msgspec.ValidationError)
        else _explain_form(value, str(error))
    )
    return Rejection(reason=reason, detail=detail, message=message)


def _explain_json(value: bytes) -> Fault:
    if re.search(rb"[:\[,]\s*-?(NaN|Infinity)", value):
        return "not_finite", "$: NaN and Infinity are not JSON; leave the field out"
    return "not_json", "$: expected one JSON object in UTF-8"


def _explain_form(value: bytes, said: str) -> Fault:
    """Turn what msgspec said of a JSON document of the wrong form into a reason and a path."""
    text, _, path = said.partition(" - at `")
    path = path.removesuffix("`") or "$"
    try:
        schema = msgspec.json.decode(value, type=_Schema).schema
    except _BAD_JSON:
        schema = 1
    if schema != 1 or isinstance(schema, bool):
        return "unknown_schema", "$.schema: expected 1; this version of the program reads no other"
    if text.startswith("Object missing required field"):
        return "missing_field", f"{path}: expected {text.removeprefix('Object missing required ')}"
    if text.startswith("Object contains unknown field"):
        near = _near(text.split("`")[1])
        return "unknown_field", f"{path}: an unknown field" + (f"; was `{near}` meant?" if near else "")
    expected = text.partition(", got ")[0] if text.startswith("Expected ") else "expected another value"
    return "wrong_value", f"{path}: {expected[0].lower()}{expected[1:]}"


@lru_cache(maxsize=1024)
def _near(name: str) -> str | None:
    """Return the field that was likely meant; cached, for a sender repeats its mistake."""
    return next(iter(get_close_matches(name, WIRE_NAMES.values(), n=1)), None)
