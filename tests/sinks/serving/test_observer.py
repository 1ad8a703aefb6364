"""Calls become events away from the request: as they were when served, none lost unsaid, no raw key kept."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sinks.serving.emitter import Emitter
from sinks.serving.event import confidence
from sinks.serving.keyref import KeyReferences, key_reference
from sinks.serving.observer import MAX_CALLS, Observer
from sinks.serving.producer import ask_calmly
from sinks.serving.sketch import Sketcher, decode_sketch

KEY = key_reference("sk-customer", bytes(32))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> tuple[Observer, Emitter, list[Any], list[int]]:
    """One without a thread; with its emitter, and lists of its events and of calls that became none."""
    emitter = Emitter("127.0.0.1:1", "events")
    events: list[Any] = []
    unobserved: list[int] = []
    monkeypatch.setattr(emitter, "put", events.append)
    return Observer("digits", emitter, unobserved.append), emitter, events, unobserved


def test_a_call_is_told_as_it_was_served(made: Any) -> None:
    observer, _, events, _ = made
    rng = np.random.default_rng(0)
    inputs, answers = rng.random((100, 784)), rng.random((100, 10))
    buffer, answer = np.empty(784), np.empty(10)  # as of a server that uses its memory again
    for at in range(100):
        buffer[:], answer[:] = inputs[at], answers[at]
        observer.put(at, KEY, buffer, answer, {})
    observer.work()
    assert [event.time_ms for event in events] == list(range(100)), "in order"
    for event, x, p in zip(events, inputs, answers, strict=True):
        alone = Sketcher(784).sketch(x).astype(np.float32)
        assert np.allclose(decode_sketch(event.input_sketch), alone, rtol=2e-3, atol=2e-3)
        assert event.predicted_class == p.argmax()
        assert event.entropy_nats == pytest.approx(confidence(p)["entropy_nats"])


def test_a_bad_call_takes_no_good_one_with_it(made: Any) -> None:
    observer, _, events, unobserved = made
    good, fine = np.ones(4), np.array([0.5, 0.5])
    calls: list[tuple[Any, Any, dict[str, Any]]] = [
        (good, fine, {}),
        (np.array([1, np.nan, 1, 1]), fine, {}),
        (good, np.array([-1.0, 2.0]), {}),
        (good, fine, {"no_such_field": 1}),
        (np.ones(5), fine, {}),
        (None, None, {"prompt_tokens": 3}),
        ([1, 2, 3, 4], [0.25, 0.75], {}),
    ]
    for at, (inputs, answer, fields) in enumerate(calls):
        observer.put(at, KEY, inputs, answer, fields)
    for text in (["a", "b"], [[1, 2], [3]]):
        with pytest.raises((ValueError, TypeError)):
            observer.put(9, KEY, text, None, {})
    observer.work()
    assert [event.time_ms for event in events] == [0, 5, 6]
    assert sum(unobserved) == 4


def test_what_does_not_fit_is_counted_and_nothing_waits(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sinks.serving.observer.MAX_BYTES", 12_000)
    observer, emitter, events, _ = made
    for _ in range(MAX_CALLS + 3):
        observer.put(0, KEY, None, None, {})
    assert emitter.dropped == {"buffer_full": 3}
    observer.work()
    image = np.zeros(1_000, np.float32)
    for _ in range(5):
        observer.put(0, KEY, image, None, {})
    assert (len(observer), emitter.backlog.shed, emitter.dropped) == (
        5,
        {"input_sketch": 2},
        {"buffer_full": 3},
    )
    observer.put(0, KEY, None, np.zeros(1_000, np.float32), {})
    assert (len(observer), emitter.dropped) == (5, {"buffer_full": 4}), "an answer is not shed"
    observer.stop()
    assert (len(observer), len(events)) == (0, MAX_CALLS + 5), "no raw input is left behind"
    assert [event.input_sketch is None for event in events[-5:]] == [False] * 3 + [True] * 2
    observer.put(0, KEY, None, None, {})
    assert (len(observer), emitter.dropped["closed"]) == (0, 1)


def test_references_are_remembered_without_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sinks.serving.keyref.MAX_KNOWN", 10)
    references = KeyReferences(bytes(32), epoch=3)
    for number in range(25):
        raw = f"sk-customer-{number}"
        assert references(raw) == references(raw.encode()) == key_reference(raw, bytes(32), 3)
    assert len(references._known) <= 10
    assert "sk-customer" not in str(vars(references))
    with pytest.raises(ValueError, match="empty"):
        references("")


def test_metadata_that_is_awaited_is_not_asked_for_again_at_once() -> None:
    asked: list[SimpleNamespace] = []

    def request_update() -> SimpleNamespace:
        asked.append(SimpleNamespace(is_done=False))
        return asked[-1]

    metadata = SimpleNamespace(request_update=request_update)
    ask_calmly(metadata)
    assert all(metadata.request_update() is asked[0] for _ in range(100))
    asked[0].is_done = True
    assert metadata.request_update() is asked[-1]
    assert len(asked) == 2
