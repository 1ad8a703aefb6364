"""Bad input: each kind is refused with a line that says where and what form; the events around it count."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from sinks.errors import PolicyError
from sinks.policyfile import load_policy
from sinks.records import DeadLetter
from streams.bus.base import Message
from streams.clock import ManualClock
from streams.deadletter import dead_letter
from streams.pipeline import Pipeline, build_pipeline
from streams.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

NOW_MS = 1_763_900_000_000
DAY_MS = 86_400_000
TOPIC = "modelwarden.events"
KEY = "k0-" + "a" * 32
RAW_KEY = "sk-live-31415926535897932384626433832795"


def event(**fields: Any) -> dict[str, Any]:
    return {"schema": 1, "time_ms": NOW_MS, "key": KEY, "gen_ai.request.model": "digits"} | fields


def packed(numbers: Any, kind: str = "<f2") -> str:
    return base64.b64encode(np.asarray(numbers).astype(kind).tobytes()).decode()


def without(field: str) -> dict[str, Any]:
    return {name: value for name, value in event().items() if name != field}


KEY_FORM = "$.key: expected k<epoch>-<32 hex digits>, as sinks.serving.keyref makes it"
SKETCH_FORM = "$.input_sketch: expected base64 of 32 little-endian float16, 88 characters"

BAD: dict[str, tuple[Any, str, str]] = {
    "not JSON": (b"key=abc&model=digits", "not_json", "$: expected one JSON object in UTF-8"),
    "half a JSON object": (b'{"schema": 1, "time_ms"', "not_json", "$: expected one JSON object in UTF-8"),
    "not UTF-8": (
        msgspec.json.encode(event()).replace(b"digits", b"d\xff\xfe"),
        "not_json",
        "$: expected one JSON object in UTF-8",
    ),
    "an empty message": (b"", "empty", "$: expected an event, got an empty message"),
    "a tombstone": (None, "empty", "$: expected an event, got an empty message"),
    "a list": ([event()], "wrong_value", "$: expected `object`"),
    "a number as text": (event(time_ms=str(NOW_MS)), "wrong_value", "$.time_ms: expected `int`"),
    "text for a number": (event(top1="high"), "wrong_value", "$.top1: expected `float | null`"),
    "a number for text": (event(tenant=7), "wrong_value", "$.tenant: expected `str | null`"),
    "a share above 1": (event(margin=1.5), "wrong_value", "$.margin: expected `float` <= 1.0"),
    "a negative count": (
        event(**{"gen_ai.usage.input_tokens": -1}),
        "wrong_value",
        "$.gen_ai.usage.input_tokens: expected `int` >= 0",
    ),
    "a name with a line feed": (
        event(plan="pro\n"),
        "wrong_value",
        "$.plan: expected 1 to 128 characters, none of them a control character",
    ),
    "no key": (without("key"), "missing_field", "$: expected field `key`"),
    "no model": (
        without("gen_ai.request.model"),
        "missing_field",
        "$: expected field `gen_ai.request.model`",
    ),
    "a misspelt field": (event(top_1=0.9), "unknown_field", "$: an unknown field; was `top1` meant?"),
    "a raw input sent along": (event(prompt=RAW_KEY), "unknown_field", "$: an unknown field"),
    "NaN": (
        b'{"time_ms": 1763900000000, "top1": NaN}',
        "not_finite",
        "$: NaN and Infinity are not JSON; leave the field out",
    ),
    "infinity": (
        b'{"time_ms": 1763900000000, "entropy_nats": -Infinity}',
        "not_finite",
        "$: NaN and Infinity are not JSON; leave the field out",
    ),
    "a sketch with NaN": (
        event(input_sketch=packed([np.nan] + [0.0] * 31)),
        "not_finite",
        "$.input_sketch: expected 32 finite numbers",
    ),
    "a sketch with infinity": (
        event(embedding_sketch=packed([0.0] * 31 + [np.inf])),
        "not_finite",
        "$.embedding_sketch: expected 32 finite numbers",
    ),
    "a sketch of 31 numbers": (event(input_sketch=packed([0.5] * 31)), "sketch", SKETCH_FORM),
    "a sketch of float32": (event(input_sketch=packed([0.5] * 32, "<f4")), "sketch", SKETCH_FORM),
    "a sketch that is no base64": (event(input_sketch="!" * 88), "sketch", SKETCH_FORM),
    "10 MB": (
        msgspec.json.encode(event(tenant="x" * 10_000_000)),
        "too_large",
        "$: expected at most 1048576 bytes, got 10000124",
    ),
    "a day ahead": (
        event(time_ms=NOW_MS + DAY_MS),
        "time_ahead",
        "$.time_ms: expected at most 3600 s ahead of the worker's clock",
    ),
    "seconds for milliseconds": (
        event(time_ms=NOW_MS // 1000),
        "time_absurd",
        "$.time_ms: expected milliseconds since 1970, in 2000 or later (were seconds sent?)",
    ),
    "a raw key": (event(key=RAW_KEY), "key_reference", KEY_FORM),
    "a key in capitals": (event(key="k0-" + "A" * 32), "key_reference", KEY_FORM),
    "a key of too late an epoch": (event(key="k65536-" + "a" * 32), "key_reference", KEY_FORM),
    "a key with a line feed": (event(key=KEY + "\n"), "key_reference", KEY_FORM),
    "a later schema": (
        event(schema=2, something_new=True),
        "unknown_schema",
        "$.schema: expected 1; this version of the program reads no other",
    ),
    "a schema in words": (
        event(schema="1"),
        "unknown_schema",
        "$.schema: expected 1; this version of the program reads no other",
    ),
}


def pipeline() -> Pipeline:
    built = build_pipeline(Settings(), references={})
    return Pipeline(built.engine, built._policy, Settings(), ManualClock(NOW_MS))


def message(offset: int, value: Any) -> Message:
    raw = value if value is None or isinstance(value, bytes) else msgspec.json.encode(value)
    return Message(topic=TOPIC, partition=0, offset=offset, value=raw)


@pytest.mark.parametrize("kind", BAD)
def test_it_is_refused_by_path_and_its_neighbours_count(kind: str) -> None:
    value, reason, line = BAD[kind]
    work = pipeline()
    outputs = work.process([message(0, event()), message(1, value), message(2, event(time_ms=NOW_MS + 5))])
    assert outputs.events == 2
    [rejection] = outputs.rejections
    assert (rejection.reason, rejection.detail) == (reason, line)
    assert rejection.message.offset == 1
    summary = work.engine.summary(KEY, "digits")
    assert summary is not None
    assert (summary.query_count, summary.last_time_ms) == (2, NOW_MS + 5)


@pytest.mark.parametrize("kind", BAD)
def test_its_dead_letter_says_where_and_why_and_holds_no_secret(kind: str) -> None:
    [rejection] = pipeline().process([message(7, BAD[kind][0])]).rejections
    letter = msgspec.json.decode(msgspec.json.encode(dead_letter(rejection)), type=DeadLetter)
    assert (letter.topic, letter.partition, letter.offset) == (TOPIC, 0, 7)
    assert letter.reason == BAD[kind][1]
    assert RAW_KEY not in str(letter)


def test_all_of_it_at_once_loses_no_good_event() -> None:
    stream: list[Message] = []
    for kind in BAD:
        stream += [message(len(stream), event()), message(len(stream) + 1, BAD[kind][0])]
    outputs = pipeline().process(stream)
    assert outputs.events == len(BAD)
    assert [rejection.message.offset for rejection in outputs.rejections] == list(range(1, len(stream), 2))
    assert [rejection.reason for rejection in outputs.rejections] == [reason for _, reason, _ in BAD.values()]


def test_time_running_backwards_and_late_events_are_taken() -> None:
    work = pipeline()
    times = [NOW_MS, NOW_MS - 1, NOW_MS - 400 * DAY_MS, NOW_MS + 60_000, NOW_MS]
    outputs = work.process([message(at, event(time_ms=time)) for at, time in enumerate(times)])
    assert outputs.events == len(times)
    assert outputs.rejections == []
    summary = work.engine.summary(KEY, "digits")
    assert summary is not None
    assert summary.query_count == len(times)


def test_duplicates_are_taken_for_the_bus_may_repeat_them() -> None:
    assert pipeline().process([message(at, event()) for at in (0, 1, 1)]).events == 3


def test_a_misspelt_field_in_the_policy_is_refused_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(
        "version: v\nrules: [{name: a, conditons: {levels: [notice]}, action: watch, duration_s: 60}]",
        encoding="utf-8",
    )
    with pytest.raises(PolicyError) as caught:
        load_policy(path)
    assert str(caught.value) == (
        f"policy file {path}: $.rules[0].conditons: no such field, perhaps `conditions`. "
        "Correct or remove that field."
    )


def test_a_worker_with_a_bad_policy_does_not_start(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("version: v\nmode: enforce\nrules: []", encoding="utf-8")
    with pytest.raises(PolicyError, match="signing key"):
        build_pipeline(Settings(policy_file=path), references={})
