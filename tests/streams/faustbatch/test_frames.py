"""Memory of responses: used again when no view of it is left, and never before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.faustbatch.frames import KEPT, FramePool
from streams.recordblock import PADDING

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE = 1 << 20
VIEWS: dict[str, Callable[[memoryview], Any]] = {
    "itself": lambda frame: frame,
    "a part": lambda frame: frame[10:20],
    "a part of a part": lambda frame: frame[10:20][2:3],
    "an array": lambda frame: np.frombuffer(frame, np.uint8)[5:6],
    "the memory behind": lambda frame: np.asarray(frame.obj)[3:4],
}


def address(frame: memoryview) -> int:
    return int(np.frombuffer(frame, np.uint8).ctypes.data)


@pytest.mark.parametrize("kind", VIEWS)
def test_memory_is_used_again_once_no_view_of_it_is_left(kind: str) -> None:
    pool = FramePool()
    first = pool.take(SIZE)
    place, view = address(first), VIEWS[kind](first)
    del first
    other = pool.take(SIZE)
    assert address(other) != place
    del view
    assert address(pool.take(SIZE)) == place


@given(st.lists(st.tuples(st.integers(0, 2 * SIZE), st.integers(0, 5)), max_size=40))
@settings(max_examples=30)
def test_what_is_looked_at_is_never_overwritten(steps: list[tuple[int, int]]) -> None:
    pool, held = FramePool(), []
    for number, (size, drop) in enumerate(steps):
        frame = pool.take(size)
        assert len(frame) == size
        content = np.frombuffer(frame, np.uint8)
        content[:] = number
        behind = np.asarray(frame.obj)[size : size + len(PADDING)]
        assert len(behind) == len(PADDING)
        assert not behind.any()
        del frame, behind
        held.append((number, content))
        del content
        del held[:drop]
        assert all((content == number).all() for number, content in held)


def test_few_responses_memory_is_kept_and_the_large_replace_the_small() -> None:
    pool = FramePool()
    frames = [pool.take(SIZE) for _ in range(3 * KEPT)]
    del frames
    places = {address(frame) for frame in [pool.take(2 * SIZE) for _ in range(KEPT)]}
    again = [pool.take(SIZE) for _ in range(KEPT)]
    assert {address(frame) for frame in again} == places
