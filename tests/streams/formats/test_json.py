"""The JSON scanner against the careful reader: same events taken, same values, for any bytes."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.batch import COLUMNS, EventBatch, format_key_reference
from sinks.records import ServingEvent
from streams.bus.base import Message
from streams.formats.base import EARLIEST_MS, Limits, Rejection
from streams.formats.careful import read_events
from streams.formats.json import decode_json
from streams.formats.jsonscan import scan_json
from streams.formats.sketches import decode_base64_sketches
from streams.recordblock import VALUE_SIZE, VALUE_START, RecordBlock, pack_messages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streams.formats.batches import Decoded

TOPIC = "events"
NOW_MS = 1_763_900_000_000
LIMITS = Limits(now_ms=NOW_MS, max_bytes=4096)
NAMES = [field.encode_name for field in msgspec.structs.fields(ServingEvent)]
PLAIN = (
    b'{"schema":1,"time_ms":1763800000000,"key":"k0-0123456789abcdef0123456789abcdef",'
    b'"gen_ai.request.model":"digits","tenant":"acme","plan":null,"input_sketch":"'
    + b"ADwAPAA8"
    * 10
    + b"ADwAPA=="
    b'","embedding_sketch":"' + b"ALwAvAC8" * 10 + b'ALwAvA==","predicted_class":7,"top1":0.98765432109,'
    b'"margin":1.0,"entropy_nats":1.2e-05,"gen_ai.usage.input_tokens":12,"gen_ai.usage.output_tokens":345,'
    b'"gen_ai.request.max_tokens":2147483647,"gen_ai.request.temperature":0.7,"gen_ai.request.choice.count":1,'
    b'"top_logprobs":0,"logit_bias_count":3,"prefix_hash":9223372036854775807}'
)


def block_of(values: Sequence[bytes | None]) -> RecordBlock:
    messages = [Message(topic=TOPIC, partition=1, offset=at, value=value) for at, value in enumerate(values)]
    return pack_messages(messages, TOPIC)


def named(batch: EventBatch | None) -> dict[str, Any]:
    """All that a batch holds, names in place of their indices."""
    if batch is None:
        return {}
    held: dict[str, Any] = {column: getattr(batch, column) for column in COLUMNS}
    for column in ("model", "tenant", "plan"):
        table = [*getattr(batch, f"{column}s"), None]
        held[column] = [table[index] for index in held[column].tolist()]
        held[f"{column}s"] = getattr(batch, f"{column}s")
    return held


def assert_same(found: Decoded, expected: tuple[EventBatch | None, list[tuple[int, Rejection]]]) -> None:
    assert found.rejections == expected[1]
    left, right = named(found.batch), named(expected[0])
    assert left.keys() == right.keys()
    for column, values in left.items():
        np.testing.assert_array_equal(values, right[column], err_msg=column)
        if isinstance(values, np.ndarray):
            assert values.dtype == right[column].dtype, column
            assert values.flags.c_contiguous, column


def check(values: Sequence[bytes | None]) -> None:
    block = block_of(values)
    assert_same(decode_json(block, LIMITS), read_events(list(block), TOPIC, LIMITS))


def sure_of(value: bytes) -> bool:
    block = block_of([value])
    starts, sizes = block.spans[VALUE_START], block.spans[VALUE_SIZE]
    scanned = scan_json(block.data, starts, sizes, earliest_ms=0, latest_ms=2**60, max_bytes=4096)
    for place in scanned.sketch_start:
        decode_base64_sketches(block.data, place, scanned.sure)
    return bool(scanned.sure[0])


def test_the_scanner_is_sure_of_what_senders_write() -> None:
    spaced = msgspec.json.format(PLAIN, indent=2)
    for value in (PLAIN, spaced, PLAIN + b" \n", PLAIN.replace(b":", b": ").replace(b",", b", ")):
        assert sure_of(value)
    check([PLAIN, spaced])


def test_a_change_of_the_order_of_fields_is_followed() -> None:
    fields = msgspec.json.decode(PLAIN)
    turned = msgspec.json.encode(dict(reversed(fields.items())))
    assert sure_of(turned)
    check([PLAIN, turned, PLAIN, turned])


@pytest.mark.parametrize("name", NAMES)
def test_a_field_given_twice_is_left_to_the_judge(name: str) -> None:
    value = msgspec.json.encode(msgspec.json.decode(PLAIN)[name])
    twice = PLAIN[:-1] + b',"%s":%s}' % (name.encode(), value)
    assert not sure_of(twice)
    check([twice])


numbers = st.one_of(
    st.floats(0, 1).map(repr),
    st.floats(0, 2).map(lambda x: f"{x:.20f}"),
    st.floats(0, 1, width=32).map(lambda x: repr(float(x))),
    # The middle between two float32, and its neighbours: the hardest to round.
    st.integers(2**23, 2**24).map(lambda m: repr((2 * m + 1) / 2**26)),
    st.tuples(st.integers(2**23, 2**24), st.integers(-3, 3)).map(
        lambda found: repr(float(np.nextafter((2 * found[0] + 1) / 2**26, found[1])))
    ),
    st.from_regex(r"-?[0-9]{1,22}(\.[0-9]{0,22})?([eE][+-]?[0-9]{0,3})?", fullmatch=True),
    st.integers(0, 2**70).map(str),
    st.sampled_from(
        ["0", "00", "0.0", "-0", "-0.0", "1.", ".5", "1e0", "1e-400", "1e400", "1.0e", "NaN", "null"]
    ),
)


@given(st.lists(st.tuples(st.sampled_from(NAMES), numbers), min_size=1, max_size=6))
@settings(max_examples=400, deadline=None)
def test_numbers_are_read_as_the_judge_reads_them(found: list[tuple[str, str]]) -> None:
    values: list[bytes | None] = []
    for name, number in found:
        fields = {field: msgspec.json.encode(value) for field, value in msgspec.json.decode(PLAIN).items()}
        fields[name] = number.encode()
        values.append(b"{" + b",".join(b'"%s":%s' % (f.encode(), v) for f, v in fields.items()) + b"}")
    check(values)


texts = st.text(max_size=140) | st.text(st.characters(max_codepoint=0x80), max_size=140)
keys = st.builds(
    format_key_reference, st.integers(0, 70_000), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)
) | st.from_regex(r"k[0-9]{0,6}-[0-9a-g`:/@A-F]{31,33}", fullmatch=True)
base64s = (
    st.binary(min_size=64, max_size=64)
    .map(lambda raw: np.frombuffer(raw, "<f2"))
    .map(lambda numbers: b64encode(numbers.tobytes()).decode())
)
odd_base64s = st.from_regex(r"[A-Za-z0-9+/ =_-]{85}[AQgwB]==", fullmatch=True)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["key", "gen_ai.request.model", "tenant", "plan", "input_sketch"]),
            texts | keys | base64s | odd_base64s,
        ),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=400, deadline=None)
def test_texts_are_read_as_the_judge_reads_them(found: list[tuple[str, str]]) -> None:
    check([msgspec.json.encode(msgspec.json.decode(PLAIN) | {name: text}) for name, text in found])


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    value = bytearray(PLAIN)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(value) - 1))
        action = draw(st.sampled_from(["set", "cut", "insert", "drop", "copy"]))
        if action == "set":
            value[at] = draw(st.sampled_from(b' "{}[]:,\\0129eE.-+nultrue\n\x00\x7f\x80\xff'))
        elif action == "cut":
            del value[max(at, 1) :]
        elif action == "insert":
            value[at:at] = draw(
                st.sampled_from([b" ", b'"', b",", b"}", b"{", b"\\", b"null", b"1", b'"a":1,', b"\xc3\xa9"])
            )
        elif action == "drop":
            del value[at : at + draw(st.integers(1, 20))]
        else:
            value[at:at] = value[at : at + draw(st.integers(1, 60))]
        if not value:
            value = bytearray(b"{")
    return bytes(value)


@given(st.lists(mutated() | st.just(PLAIN) | st.none() | st.binary(max_size=50), min_size=1, max_size=8))
@settings(max_examples=600, deadline=None)
def test_any_bytes_are_judged_alike(values: list[bytes | None]) -> None:
    check(values)


def test_times_and_sizes_out_of_bounds_are_judged_alike() -> None:
    value = b'{"time_ms":%d,"key":"k0-0123456789abcdef0123456789abcdef","gen_ai.request.model":"m"%s}'
    ahead = NOW_MS + 3_600_000
    times = [0, EARLIEST_MS - 1, EARLIEST_MS, ahead, ahead + 1, 253_402_300_799_999, 10**17]
    check([value % (time, b"") for time in times] + [value % (NOW_MS, b" " * 5000)])


@pytest.mark.parametrize(
    "value", [PLAIN[:-1] + b",", PLAIN[:-1] + b",}", PLAIN + b"}", b"{}", b"{", PLAIN * 2]
)
def test_found_cases_are_judged_alike(value: bytes) -> None:
    check([value, PLAIN])


def test_the_end_of_the_buffer_is_never_passed() -> None:
    for end in range(len(PLAIN)):
        check([PLAIN[:end] or None])
