"""Making and emitting events in the provider's process."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinks.serving.event import confidence, emit, encode_event, make_event
from sinks.serving.keyref import key_reference
from sinks.serving.sketch import Sketcher
from streams.bus.base import Message
from streams.codec import decode_events

KEY = key_reference("sk-secret-of-a-customer", bytes(32))


def test_five_lines_from_a_call_to_a_decoded_event() -> None:
    sent: list[tuple[str, bytes, bytes]] = []
    pixels = np.random.default_rng(0).random(784)
    sketch = Sketcher(784).sketch(pixels)
    event = make_event(
        time_ms=1_763_900_000_000,
        key=KEY,
        model="digits",
        input_sketch=sketch,
        probabilities=[1, 2, 5],
        plan="pro",
    )
    emit(event, lambda topic, value, *, key: sent.append((topic, value, key)), "modelwarden.events")
    [(topic, value, key)] = sent
    assert key == KEY.encode()
    assert b"sk-secret" not in value
    assert b"null" not in value
    batch, rejections = decode_events([Message(topic=topic, partition=0, offset=0, value=value)], topic)
    assert rejections == []
    assert batch is not None
    assert batch.models == ("digits",)
    assert batch.plans == ("pro",)
    assert batch.predicted_class[0] == 2
    assert batch.top1[0] == np.float32(0.625)
    assert batch.margin[0] == np.float32(0.375)
    assert np.array_equal(batch.input_sketch[0], sketch.astype(np.float32))


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50).filter(lambda p: sum(p) > 0))
def test_confidence_is_always_what_the_record_takes(probabilities: list[float]) -> None:
    event = make_event(time_ms=1_763_900_000_000, key=KEY, model="m", probabilities=probabilities)
    message = Message(topic="t", partition=0, offset=0, value=encode_event(event))
    assert decode_events([message], "t")[1] == []


def test_entropy_of_a_fair_answer_is_the_logarithm_of_its_classes() -> None:
    summary = confidence([0.25] * 4)
    assert summary["entropy_nats"] == pytest.approx(math.log(4))
    assert summary["margin"] == 0
    assert confidence([0.0, 3.0])["entropy_nats"] == 0
    assert confidence([1.0]) == {"predicted_class": 0, "top1": 1.0, "margin": 1.0, "entropy_nats": 0.0}


@pytest.mark.parametrize("bad", [[], [0.0, 0.0], [-0.1, 1.1], [math.nan, 1.0], [math.inf, 1.0]])
def test_answers_that_are_no_probabilities_are_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="probabilities"):
        confidence(bad)
