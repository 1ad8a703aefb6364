"""The backlog: sketches give way before events, it stays within its bytes, and the counts add up."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.batch import format_key_reference
from sinks.serving.backlog import DOWN, EVENT_BYTES, RUNGS, SKETCH_BYTES, UP, Backlog, Ladder, event_bytes
from sinks.serving.event import make_event

if TYPE_CHECKING:
    from sinks.records import ServingEvent

LIMIT_BYTES = 40 * EVENT_BYTES
SKETCH = np.ones(32, np.float16)


def event(number: int, *, has_input: bool = True, has_embedding: bool = True) -> ServingEvent:
    return make_event(
        time_ms=1_760_000_000_000 + number,
        key=format_key_reference(0, number, 2**63 + number),
        model="digits",
        input_sketch=SKETCH * (number % 100) if has_input else None,
        embedding_sketch=SKETCH * (number % 99) if has_embedding else None,
        probabilities=[0.1, 0.2 + number * 1e-6, 0.7],
        prompt_tokens=1_000 + number,
        completion_tokens=2_000 + number,
        max_tokens=3_000 + number,
        temperature=0.5,
    )


@given(st.lists(st.floats(0, 1)))
def test_the_ladder_climbs_at_once_and_comes_down_late(fills: list[float]) -> None:
    ladder, before = Ladder(), 0
    for fill in fills:
        level = ladder.see(fill)
        assert sum(fill >= up for up in UP) <= level <= sum(fill >= down for down in DOWN)
        if level > before:
            assert fill >= UP[level - 1]
        if level < before:
            assert fill < DOWN[level]
        before = level
    assert all(set(lower) < set(higher) for lower, higher in pairwise(RUNGS))


@given(st.lists(st.tuples(st.sampled_from(("put", "take", "finish")), st.booleans(), st.booleans())))
def test_sketches_go_before_events_and_every_event_is_accounted_for(
    steps: list[tuple[str, bool, bool]],
) -> None:
    backlog = Backlog(LIMIT_BYTES)
    taken: list[ServingEvent] = []
    offered = finished = dropped = 0
    shed = {"embedding_sketch": 0, "input_sketch": 0}
    for step, has_input, has_embedding in steps * 8:
        if step == "put":
            offered += 1
            one = event(offered, has_input=has_input, has_embedding=has_embedding)
            level, fill = backlog.level, backlog.fill
            if not backlog.put(one):
                dropped += 1
                assert level == len(UP), "nothing is dropped while sketches are taken"
                assert fill * LIMIT_BYTES + EVENT_BYTES > LIMIT_BYTES
                continue
            kept = backlog.waiting[-1]
            for name in shed:
                is_shed = getattr(kept, name) != getattr(one, name)
                assert is_shed == (name in RUNGS[level] and getattr(one, name) is not None)
                shed[name] += is_shed
            assert (kept.key, kept.top1, kept.prompt_tokens) == (one.key, one.top1, one.prompt_tokens)
        elif step == "take":
            taken += backlog.take()
        else:
            backlog.finish(len(taken), sum(map(event_bytes, taken)))
            finished, taken = finished + len(taken), []
        held = [*taken, *backlog.waiting]
        assert offered == finished + dropped + len(held)
        assert len(backlog) == len(held)
        assert backlog.fill == sum(map(event_bytes, held)) / LIMIT_BYTES <= 1
        assert {name: backlog.shed[name] for name in shed} == shed
    given_up = backlog.clear()
    backlog.finish(len(taken), sum(map(event_bytes, taken)))
    assert offered == finished + dropped + len(taken) + given_up
    assert (len(backlog), backlog.fill, backlog.level) == (0, 0, 0)


def test_leaving_sketches_out_makes_room_for_more_events() -> None:
    backlog = Backlog(2**20)
    held = 0
    while backlog.put(event(held)):
        held += 1
    assert held > 1.15 * 2**20 / (EVENT_BYTES + 2 * SKETCH_BYTES)
    assert [one.input_sketch is None for one in backlog.waiting] == sorted(
        one.input_sketch is None for one in backlog.waiting
    ), "the oldest keep theirs"


@pytest.mark.parametrize("sketches", [0, 1, 2])
def test_an_event_takes_the_memory_that_it_is_counted_with(sketches: int) -> None:
    backlog = Backlog(10**9)
    tracemalloc.start()
    try:
        for number in range(2_000):
            assert backlog.put(event(number, has_input=sketches > 0, has_embedding=sketches > 1))
        measured, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert measured == pytest.approx(2_000 * event_bytes(backlog.waiting[0]), rel=0.15)
