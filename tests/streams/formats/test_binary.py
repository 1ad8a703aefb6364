"""The binary formats: the same events as in JSON, bad ones refused alone, any bytes survived."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.batch import COLUMNS as BATCH_COLUMNS
from detectors.batch import EventBatch, format_key_reference
from sinks.records import ServingEvent
from sinks.serving.event import encode_event
from sinks.serving.formats import (
    ABSENT_SKETCH,
    COLUMNS,
    COLUMNS_STRUCT,
    FORMAT_HEADER,
    JSON,
    RECORD,
    RECORD_STRUCT,
    encode_columns,
    encode_record,
)
from sinks.serving.sketch import encode_sketch
from streams.bus.base import Message
from streams.codec import EARLIEST_MS, decode_events
from streams.formats.base import Limits
from streams.formats.binary import EventColumns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streams.formats.base import Rejection

GOLDEN = Path(__file__).parent / "golden"
NOW_MS = 1_763_900_000_000
TOPIC = "events"
LIMITS = Limits(now_ms=NOW_MS)

names = st.text(
    st.characters(codec="utf-8", exclude_characters="\x7f", min_codepoint=0x20), min_size=1, max_size=50
)
counts = st.integers(0, 2**31 - 1)
ratios = st.floats(0, 1, width=32)
sketches = st.integers(0, 2**32).map(
    lambda seed: encode_sketch(np.random.default_rng(seed).normal(0, 1e-3, 32).astype(np.float16))
)
events = st.builds(
    ServingEvent,
    time_ms=st.integers(EARLIEST_MS, NOW_MS),
    key=st.builds(
        format_key_reference, st.integers(0, 65_535), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)
    ),
    model=names,
    tenant=st.none() | names,
    plan=st.none() | names,
    input_sketch=st.none() | sketches,
    embedding_sketch=st.none() | sketches,
    predicted_class=st.none() | st.integers(0, 1_000_000),
    top1=st.none() | ratios,
    margin=st.none() | ratios,
    entropy_nats=st.none() | ratios,
    prompt_tokens=st.none() | counts,
    completion_tokens=st.none() | counts,
    max_tokens=st.none() | counts,
    temperature=st.none() | ratios,
    choice_count=st.none() | counts,
    top_logprobs=st.none() | counts,
    logit_bias_count=st.none() | counts,
    prefix_hash=st.none() | st.integers(0, 2**63 - 1),
)
EVENT = ServingEvent(
    time_ms=NOW_MS,
    key=format_key_reference(3, 0x0123456789ABCDEF, 0xFEDCBA9876543210),
    model="digits",
    tenant="acme",
    input_sketch=encode_sketch(np.arange(32, dtype=np.float16) / 8),
    embedding_sketch=encode_sketch(-np.arange(32, dtype=np.float16)),
    predicted_class=7,
    top1=0.75,
    margin=0.5,
    entropy_nats=1.25,
    prompt_tokens=11,
    prefix_hash=2**62 + 1,
)


def message(offset: int, value: bytes | None, name: bytes | None) -> Message:
    headers = () if name is None else (("other", b"x"), (FORMAT_HEADER, name))
    return Message(topic=TOPIC, partition=4, offset=offset, value=value, headers=headers)


def write(event: ServingEvent, name: bytes | None) -> bytes:
    if name == RECORD:
        return encode_record(event)
    return encode_columns([event]) if name == COLUMNS else encode_event(event)


def decode(*messages: Message) -> tuple[EventBatch | None, list[Rejection]]:
    return decode_events(messages, TOPIC, now_ms=NOW_MS)


def held(batch: EventBatch | None) -> dict[str, Any]:
    """All that a batch holds but where it came from, names in place of their indices."""
    assert batch is not None
    found = {column: getattr(batch, column).tolist() for column in BATCH_COLUMNS if column != "offset"}
    for column in ("model", "tenant", "plan"):
        table = [*getattr(batch, f"{column}s"), None]
        found[column] = [table[index] for index in found[column]]
        found[f"{column}s"] = getattr(batch, f"{column}s")
    return {column: str(values) for column, values in found.items()}  # nan equals nan


def in_json(sent: Sequence[ServingEvent]) -> EventBatch | None:
    return decode(*[message(at, encode_event(event), None) for at, event in enumerate(sent)])[0]


@given(st.lists(events, min_size=1, max_size=6))
@settings(max_examples=150)
def test_all_formats_hold_the_same_events(sent: list[ServingEvent]) -> None:
    expected = held(in_json(sent))
    singles, refused = decode(*[message(at, encode_record(event), RECORD) for at, event in enumerate(sent)])
    assert refused == []
    assert held(singles) == expected
    together, refused = decode(message(9, encode_columns(sent), COLUMNS))
    assert refused == []
    assert held(together) == expected
    assert together is not None
    assert set(together.offset.tolist()) == {9}


@given(st.lists(st.tuples(events, st.sampled_from([None, JSON, RECORD, COLUMNS])), min_size=1, max_size=12))
@settings(max_examples=100)
def test_formats_may_stand_in_any_order(sent: list[tuple[ServingEvent, bytes | None]]) -> None:
    mixed = [message(at, write(event, name), name) for at, (event, name) in enumerate(sent)]
    batch, refused = decode(*mixed)
    assert refused == []
    assert batch is not None
    assert batch.offset.tolist() == list(range(len(sent)))
    assert held(batch) == held(in_json([event for event, _ in sent]))


def test_bad_events_in_a_micro_batch_are_refused_alone() -> None:
    change = msgspec.structs.replace
    sketch = bytes(EVENT.input_sketch or "", "ascii")
    assert sketch
    sent = [
        EVENT,
        change(EVENT, time_ms=1),
        change(EVENT, time_ms=NOW_MS + 3_600_001),
        change(EVENT, top1=1.5),
        EVENT,
        change(EVENT, model="\n"),
        change(EVENT, predicted_class=1_000_001),
        change(EVENT, prompt_tokens=-2),
        change(EVENT, prefix_hash=2**63),
        change(EVENT, tenant="\x7f"),
        change(EVENT, key=format_key_reference(1, 2, 3)),
    ]
    batch, refused = decode(message(7, encode_columns(sent), COLUMNS))
    assert batch is not None
    assert len(batch) == 3
    assert batch.key_epoch.tolist() == [3, 3, 1]
    assert (batch.models, batch.tenants) == (("digits",), ("acme",))
    assert [(found.row, found.reason) for found in refused] == [
        (1, "time_absurd"),
        (2, "time_ahead"),
        (3, "wrong_value"),
        (5, "wrong_value"),
        (6, "wrong_value"),
        (7, "wrong_value"),
        (8, "wrong_value"),
        (9, "wrong_value"),
    ]
    assert refused[2].detail == "$[3].top1: expected 0 to 1, or NaN (absent)"
    assert refused[3].detail.startswith("$[5].gen_ai.request.model: expected 1 to 128 characters")


def test_a_sketch_that_is_not_finite_is_refused_and_an_absent_one_is_not() -> None:
    value = bytearray(encode_columns([EVENT, msgspec.structs.replace(EVENT, input_sketch=None), EVENT]))
    at = value.index(ABSENT_SKETCH)
    struct.pack_into("<H", value, at + 64, 0x7C00)
    batch, refused = decode(message(0, bytes(value), COLUMNS))
    assert batch is not None
    assert np.isnan(batch.input_sketch[1]).all()
    assert [(found.row, found.reason) for found in refused] == [(2, "not_finite")]


@pytest.mark.parametrize("name", [RECORD, COLUMNS])
def test_a_message_of_another_length_is_refused_as_a_whole(name: bytes) -> None:
    whole = encode_record(EVENT) if name == RECORD else encode_columns([EVENT] * 3)
    for value in (whole[:-1], whole + b"\0", whole[:10], b"\xff" + whole[1:]):
        batch, refused = decode(message(0, value, name), message(1, whole, name))
        assert batch is not None
        assert set(batch.offset.tolist()) == {1}
        assert [(found.reason, found.row) for found in refused] == [("malformed", None)]
    assert decode(message(0, None, name))[1][0].reason == "empty"
    assert decode(message(0, bytes(2_000_000), name))[1][0].reason == "too_large"


EDGES: dict[str, list[Any]] = {
    "time_ms": [-(2**63), EARLIEST_MS - 1, EARLIEST_MS, LIMITS.latest_ms, LIMITS.latest_ms + 1, 2**63 - 1],
    "prefix_hash": [0, 2**63 - 1, 2**63, 2**64 - 1],
    "names": [-3, -2, -1, 0],
    "integers": [-(2**31), -2, -1, 0, 1_000_000, 1_000_001, 2**31 - 1],
    "floats": [np.nan, -np.inf, -0.0, -1e-9, 0.0, 1.0, 1.0000001, 100.0, 100.00001, np.inf],
    "infinite": [False, True],
}


@pytest.mark.parametrize("column", EDGES)
def test_a_quick_look_at_all_events_sees_whatever_the_careful_one_does(column: str) -> None:
    columns = EventColumns(5)
    columns.time_ms[:], columns.names[:], columns.prefix_hash[:] = EARLIEST_MS, 0, 0
    columns.integers[:], columns.floats[:], columns.infinite[:] = -1, np.nan, False
    values = getattr(columns, column)
    assert columns._is_good(LIMITS)
    for place in np.ndindex(values.shape):
        before = values[place]
        for value in EDGES[column]:
            values[place] = value
            faults = any(bad.any() for bad, _ in columns._faults(LIMITS))
            assert columns._is_good(LIMITS) != faults, (place, value)
        values[place] = before


def test_an_unknown_format_is_refused_with_the_known_ones_named() -> None:
    batch, refused = decode(message(0, b"\0", b"protobuf"), message(1, encode_event(EVENT), JSON))
    assert batch is not None
    assert [found.reason for found in refused] == ["unknown_format"]
    assert "json, record.v1, columns.v1" in refused[0].detail


def test_an_index_that_points_to_no_name_is_refused_alone() -> None:
    other = msgspec.structs.replace(EVENT, model="other")
    value = bytearray(encode_columns([EVENT, other]))
    names_bytes = struct.unpack_from("<I", value, 12)[0]
    struct.pack_into("<H", value, COLUMNS_STRUCT.size + names_bytes + 2 * 26, 5)
    batch, refused = decode(message(0, bytes(value), COLUMNS))
    assert batch is not None
    assert batch.models == ("other",)
    assert [(found.row, found.reason) for found in refused] == [(0, "wrong_value")]


@given(
    st.lists(events, min_size=1, max_size=4),
    st.sampled_from([RECORD, COLUMNS]),
    st.integers(0, 2**32),
    st.integers(1, 6),
)
@settings(max_examples=400)
def test_any_bytes_are_refused_without_harm_to_their_neighbours(
    sent: list[ServingEvent], name: bytes, seed: int, changes: int
) -> None:
    draw = random.Random(seed)  # noqa: S311 - damage, not secrets
    value = bytearray(encode_record(sent[0]) if name == RECORD else encode_columns(sent))
    for _ in range(changes):
        at = draw.randrange(min(len(value), draw.choice([20, 100, 10_000])))
        value[at] = draw.choice([0, 1, 127, 128, 255, draw.randrange(256)])
    if draw.random() < 0.2:
        del value[draw.randrange(len(value)) :]
    good = message(1, encode_event(EVENT), None)
    batch, refused = decode(message(0, bytes(value), name), good)
    assert batch is not None
    assert batch.offset[-1] == 1
    whole = [found for found in refused if found.row is None]
    assert len(whole) <= 1
    assert len(batch) + len(refused) >= 2


@given(st.binary(max_size=200), st.sampled_from([RECORD, COLUMNS, JSON, b""]))
@settings(max_examples=200)
def test_no_bytes_raise(value: bytes, name: bytes) -> None:
    batch, refused = decode(message(0, value, name))
    assert (0 if batch is None else len(batch)) + len(refused) >= 1


def test_released_versions_still_decode() -> None:
    """Golden messages, written once: a change that cannot read them needs a new version."""
    expected = held(in_json([EVENT, msgspec.structs.replace(EVENT, tenant=None, input_sketch=None)]))
    found = decode(message(0, (GOLDEN / "columns.v1").read_bytes(), COLUMNS))
    assert found[1] == []
    assert held(found[0]) == expected
    singles = [message(at, (GOLDEN / f"record.v1.{at}").read_bytes(), RECORD) for at in range(2)]
    found = decode(*singles)
    assert found[1] == []
    assert held(found[0]) == expected


def test_writers_say_what_they_cannot_write() -> None:
    with pytest.raises(ValueError, match="1 to 4096 events, not 0"):
        encode_columns([])
    with pytest.raises(ValueError, match="at most 255 bytes"):
        encode_record(msgspec.structs.replace(EVENT, model="é" * 128))
    with pytest.raises(ValueError, match="not a key reference"):
        encode_record(msgspec.structs.replace(EVENT, key="sk-live"))
    assert RECORD_STRUCT.size == 84
