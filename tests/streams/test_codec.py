"""The codec: nothing raises, order is kept, forms agree with the published record, nothing leaks."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.batch import ABSENT, EventBatch, format_key_reference
from sinks.records import ServingEvent
from sinks.serving.sketch import encode_sketch
from streams.bus.base import Message
from streams.codec import EARLIEST_MS, decode_events, encode_event

NOW_MS = 1_763_900_000_000
TOPIC = "modelwarden.events"
FIELDS = {field.name: field.encode_name for field in msgspec.structs.fields(ServingEvent)}


def messages(*values: bytes | None) -> list[Message]:
    return [
        Message(topic=TOPIC, partition=2, offset=100 + at, value=value) for at, value in enumerate(values)
    ]


def optional(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


keys = st.builds(
    format_key_reference,
    st.integers(0, 65_535),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
)
names = st.text(
    st.characters(codec="utf-8", exclude_characters="\x7f", min_codepoint=0x20), min_size=1, max_size=128
)
counts = st.integers(0, 2**31 - 1)
ratios = st.floats(0, 1)
sketches = st.lists(st.floats(-60_000, 60_000, width=16), min_size=32, max_size=32).map(
    lambda numbers: encode_sketch(np.array(numbers))
)
events = st.builds(
    ServingEvent,
    time_ms=st.integers(EARLIEST_MS, NOW_MS),
    key=keys,
    model=names,
    tenant=optional(names),
    plan=optional(names),
    input_sketch=optional(sketches),
    embedding_sketch=optional(sketches),
    predicted_class=optional(st.integers(0, 1_000_000)),
    top1=optional(ratios),
    margin=optional(ratios),
    entropy_nats=optional(st.floats(0, 100)),
    prompt_tokens=optional(counts),
    completion_tokens=optional(counts),
    max_tokens=optional(counts),
    temperature=optional(st.floats(0, 100)),
    choice_count=optional(counts),
    top_logprobs=optional(counts),
    logit_bias_count=optional(counts),
    prefix_hash=optional(st.integers(0, 2**63 - 1)),
)


def row_of(batch: EventBatch, row: int) -> dict[str, Any]:
    """Write a row of columns as the fields of an event again."""
    fields: dict[str, Any] = {
        "time_ms": int(batch.time_ms[row]),
        "key": format_key_reference(batch.key_epoch[row], *batch.key[row]),
        "prefix_hash": int(batch.prefix_hash[row]),
    }
    for field in ("model", "tenant", "plan"):
        index = int(getattr(batch, field)[row])
        fields[field] = None if index == ABSENT else getattr(batch, f"{field}s")[index]
    for field in ("input_sketch", "embedding_sketch"):
        sketch = getattr(batch, field)[row]
        fields[field] = None if np.isnan(sketch).all() else encode_sketch(sketch)
    for field in FIELDS.keys() - fields.keys() - {"schema"}:
        value = getattr(batch, field)[row].item()
        fields[field] = None if value == ABSENT or math.isnan(value) else value
    return fields


def expected_of(event: ServingEvent) -> dict[str, Any]:
    fields = {name: value for name, value in msgspec.structs.asdict(event).items() if name != "schema"}
    fields["prefix_hash"] = event.prefix_hash or 0
    for field in ("top1", "margin", "entropy_nats", "temperature"):
        fields[field] = None if fields[field] is None else float(np.float32(fields[field]))
    return fields


@given(st.lists(events, min_size=1, max_size=8))
@settings(max_examples=150, deadline=None)
def test_events_survive_the_round_trip_in_order(sent: list[ServingEvent]) -> None:
    batch, rejections = decode_events(messages(*map(encode_event, sent)), TOPIC, now_ms=NOW_MS)
    assert rejections == []
    assert batch is not None
    assert [row_of(batch, row) for row in range(len(batch))] == [expected_of(event) for event in sent]
    assert batch.offset.tolist() == list(range(100, 100 + len(sent)))
    assert set(batch.partition.tolist()) == {2}


@given(events)
@settings(max_examples=100, deadline=None)
def test_encoded_events_are_what_the_published_record_reads(event: ServingEvent) -> None:
    assert msgspec.json.decode(encode_event(event), type=ServingEvent) == event


spoilt = st.builds(
    lambda event, change: msgspec.json.encode(msgspec.json.decode(encode_event(event)) | change),
    events,
    st.sampled_from(
        [
            {"key": "sk-live-0123"},
            {"tenant": "a\n"},
            {"gen_ai.request.model": ""},
            {"input_sketch": "A" * 85 + "==="},
            {"input_sketch": "AHwA" + "A" * 82 + "=="},  # its first number is infinite
            {"embedding_sketch": "A" * 87 + "="},
            {"time_ms": 0},
            {"time_ms": NOW_MS + 3_600_001},
            {"top1": "high"},
            {"more": 1},
        ]
    ),
)


@given(st.lists(events | st.binary(max_size=200) | st.none() | spoilt, max_size=12))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_refused_without_harm_to_their_neighbours(
    stream: list[ServingEvent | bytes | None],
) -> None:
    sent = messages(*[encode_event(item) if isinstance(item, ServingEvent) else item for item in stream])
    batch, rejections = decode_events(sent, TOPIC, now_ms=NOW_MS)
    good = [at for at, item in enumerate(stream) if isinstance(item, ServingEvent)]
    bad = [at for at, item in enumerate(stream) if not isinstance(item, ServingEvent)]
    assert ([] if batch is None else batch.offset.tolist()) == [100 + at for at in good]
    assert [rejection.message for rejection in rejections] == [sent[at] for at in bad]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40) | keys | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@given(events, st.sampled_from([*FIELDS.values(), "other"]), json_values, st.sampled_from(["set", "drop"]))
@settings(max_examples=500, deadline=None)
def test_the_fast_reader_takes_exactly_what_the_published_record_takes(
    event: ServingEvent, field: str, value: Any, change: str
) -> None:
    document = msgspec.json.decode(encode_event(event))
    document[field] = value
    if change == "drop":
        del document[field]
    encoded = msgspec.json.encode(document)
    batch, rejections = decode_events(messages(encoded), TOPIC)
    try:
        strict = msgspec.json.decode(encoded, type=ServingEvent)
    except msgspec.ValidationError:
        assert batch is None
        assert rejections[0].reason not in {"not_json", "empty"}
    else:
        absurd = strict.time_ms < EARLIEST_MS
        assert [rejection.reason for rejection in rejections] == (["time_absurd"] if absurd else [])


@given(events, st.data())
@settings(max_examples=300, deadline=None)
def test_a_flipped_byte_never_raises(event: ServingEvent, data: st.DataObject) -> None:
    encoded = bytearray(encode_event(event))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] = data.draw(st.integers(0, 255))
    del encoded[data.draw(st.integers(at, len(encoded))) :]
    batch, rejections = decode_events(messages(bytes(encoded), encode_event(event)), TOPIC)
    assert batch is not None
    assert batch.offset[-1] == 101
    assert len(batch) + len(rejections) == 2


@given(st.sampled_from(sorted(FIELDS.values())), st.sampled_from(["name", "text", "list"]))
@settings(max_examples=100, deadline=None)
def test_no_detail_repeats_what_the_message_held(field: str, place: str) -> None:
    held = "sk-live-31415926535897932384626433832795"
    document: dict[str, Any] = {
        "time_ms": NOW_MS,
        "key": format_key_reference(0, 1, 2),
        "gen_ai.request.model": "digits",
    }
    if place == "name":
        document[held] = {field: held}
    else:
        document[field] = [held] if place == "list" else held + "\n"
    _, rejections = decode_events(messages(msgspec.json.encode(document)), TOPIC)
    assert len(rejections) == 1
    assert held[3:9] not in rejections[0].detail
    assert rejections[0].detail.startswith("$")


def test_the_same_message_twice_is_two_messages() -> None:
    message = Message(topic=TOPIC, partition=0, offset=1, value=b"{")
    _, rejections = decode_events([message, message], TOPIC)
    assert len(rejections) == 2


def test_no_messages_make_no_batch() -> None:
    assert decode_events([], TOPIC) == (None, [])
