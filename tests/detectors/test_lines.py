"""Codes between two remembered ones: what is found is true, most is found, and the room does not matter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_conformance import load_twin

from detectors.lines import TABLE_SIZE, is_between, is_middle
from detectors.pages import ENTRY_BYTES, LENGTHS
from detectors.ringsearch import RING_LENGTH, RING_SIZE, nearest_entry

if TYPE_CHECKING:
    from detectors.base import Array

TWIN = load_twin("near_duplicate")
ROUNDS = 400

cases = given(seed=st.integers(0, 10_000), length=st.sampled_from(LENGTHS), share=st.floats(0.01, 1.0))


def draw_page(rng: np.random.Generator, length: int, filled: int) -> tuple[Array, Array]:
    """Draw a page in memory and its filled entries, as a key's queries are: normal, in ten classes."""
    memory = rng.integers(-128, 128, length * ENTRY_BYTES).astype(np.int8)
    page = memory.reshape(ENTRY_BYTES, length)
    page[:RING_SIZE, :filled] = np.clip(np.rint(rng.normal(0, 17, (RING_SIZE, filled))), -127, 127)
    page[RING_SIZE, :filled] = (rng.integers(0, 10, filled) << 4).astype(np.uint8).view(np.int8)
    return memory, page[:, :filled]


def between(page: Array, i: int, k: int, share: float = 0.5) -> Array:
    """Return the code that lies that share of the way from one entry to another."""
    start, end = page[:RING_SIZE, i].astype(float), page[:RING_SIZE, k].astype(float)
    return np.asarray(np.rint(start + share * (end - start)), np.int16)


def differ(page: Array, i: int, k: int) -> bool:
    return bool((page[RING_SIZE, i] ^ page[RING_SIZE, k]) & -16)


def find_middle(code: Array, memory: Array, length: int, filled: int, rng: np.random.Generator) -> bool:
    """Ask twice with other things in the room."""
    answers = {
        bool(
            is_middle(
                code, memory, 0, length, filled,
                rng.integers(0, 2**16, (3, RING_LENGTH)).astype(np.uint16),
                rng.integers(0, 256, TABLE_SIZE).astype(np.uint8),
            )
        )
        for _ in range(2)
    }  # fmt: skip
    assert len(answers) == 1, "what the room held has an influence"
    return answers.pop()


def find_between(code: Array, memory: Array, length: int, filled: int, nearest: int) -> bool:
    short, squared = np.empty(RING_LENGTH, np.uint16), np.empty(RING_LENGTH, np.int32)
    nearest_entry(code, memory, 0, length, filled, filled, short, squared)
    room = np.full(RING_LENGTH, -7, np.int16)
    return bool(is_between(code, memory, 0, length, filled, nearest, short, room))


def nearest_of(code: Array, page: Array) -> int:
    return int(((page[:RING_SIZE].astype(int) - code[:, None]) ** 2).sum(axis=0).argmin())


def as_queries(code: Array, page: Array) -> tuple[Any, list[Any]]:
    """Return a code and the entries as the twin has them."""
    tags = page[RING_SIZE].view(np.uint8)
    entries = [(tuple(map(int, page[:RING_SIZE, i])), int(tags[i]) >> 4) for i in range(page.shape[1])]
    return TWIN.Query(tuple(map(int, code)), 0, 0), [TWIN.Query(*entry, 0) for entry in entries]


@cases
def test_they_find_what_their_twins_find(seed: int, length: int, share: float) -> None:
    rng, filled = np.random.default_rng(seed), max(int(share * length), 1)
    memory, page = draw_page(rng, length, filled)
    i, k = rng.integers(0, filled, 2)
    code = between(page, i, k, rng.choice([0.1, 0.3, 0.5]))
    code[: 2 * rng.integers(0, 4)] += np.int16(rng.integers(0, 4))
    query, ring = as_queries(code, page)
    assert find_middle(code, memory, length, filled, rng) == TWIN.is_middle(query, ring)
    nearest = nearest_of(code, page)
    found = find_between(code, memory, length, filled, nearest)
    assert found == TWIN.is_between(query, ring[nearest], ring)


def test_most_middles_are_found_and_nothing_else_is() -> None:
    rng, length = np.random.default_rng(3), LENGTHS[-1]
    found, asked = 0, 0
    for _ in range(ROUNDS):
        memory, page = draw_page(rng, length, length)
        i, k = rng.integers(0, length, 2)
        if differ(page, i, k):
            asked += 1
            found += find_middle(between(page, i, k), memory, length, length, rng)
        honest = np.rint(rng.normal(0, 10, RING_SIZE)).astype(np.int16)
        assert not find_middle(honest, memory, length, length, rng)
    assert asked > ROUNDS / 2
    assert found > 0.85 * asked


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3])
def test_steps_that_are_no_halves_are_found_and_nothing_else_is(share: float) -> None:
    rng, length = np.random.default_rng(4), LENGTHS[-1]
    found, asked = 0, 0
    for _ in range(ROUNDS):
        memory, page = draw_page(rng, length, length)
        i, k = rng.integers(0, length, 2)
        code = between(page, i, k, share)
        if differ(page, i, k) and nearest_of(code, page) == i:
            asked += 1
            found += find_between(code, memory, length, length, i)
        honest = np.rint(rng.normal(0, 10, RING_SIZE)).astype(np.int16)
        assert not find_between(honest, memory, length, length, nearest_of(honest, page))
    assert asked > ROUNDS / 20
    assert found > 0.95 * asked


@pytest.mark.parametrize(
    ("step", "labels", "middle", "line"),
    [(20, (1, 2), True, True), (4, (1, 2), False, True), (20, (1, 1), False, False)],
)
def test_ends_are_of_two_classes_and_those_of_a_middle_far_apart(
    step: int, labels: tuple[int, int], *, middle: bool, line: bool
) -> None:
    memory, _ = draw_page(np.random.default_rng(4), LENGTHS[0], 2)
    page = memory.reshape(ENTRY_BYTES, LENGTHS[0])
    page[:RING_SIZE, :2] = [[-step, step]] * RING_SIZE
    page[RING_SIZE, :2] = [label << 4 for label in labels]
    origin = np.zeros(RING_SIZE, np.int16)
    assert find_middle(origin, memory, LENGTHS[0], 2, np.random.default_rng(5)) == middle
    assert find_between(origin, memory, LENGTHS[0], 2, 0) == line
