"""Middles of two remembered codes: what is found is true, most are found, and the room does not matter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_conformance import load_twin

from detectors.middles import TABLE_SIZE, is_middle
from detectors.pages import ENTRY_BYTES, LENGTHS
from detectors.ringsearch import RING_LENGTH, RING_SIZE

if TYPE_CHECKING:
    from detectors.base import Array

TWIN = load_twin("near_duplicate")
ROUNDS = 400


def draw_page(rng: np.random.Generator, length: int, filled: int) -> tuple[Array, Array]:
    """Draw a page in memory and its filled entries, as a key's queries are: normal, in ten classes."""
    memory = rng.integers(-128, 128, length * ENTRY_BYTES).astype(np.int8)
    page = memory.reshape(ENTRY_BYTES, length)
    page[:RING_SIZE, :filled] = np.clip(np.rint(rng.normal(0, 17, (RING_SIZE, filled))), -127, 127)
    page[RING_SIZE, :filled] = (rng.integers(0, 10, filled) << 4).astype(np.uint8).view(np.int8)
    return memory, page[:, :filled]


def middle(page: Array, i: int, k: int) -> Array:
    return np.rint((page[:RING_SIZE, i].astype(float) + page[:RING_SIZE, k]) / 2).astype(np.int16)


def find(code: Array, memory: Array, length: int, filled: int, rng: np.random.Generator) -> bool:
    """Ask twice with other things in the room."""
    answers = {
        bool(
            is_middle(
                code, memory, 0, length, filled,
                rng.integers(0, 4096, (3, RING_LENGTH)).astype(np.uint16),
                rng.integers(0, 256, TABLE_SIZE).astype(np.uint8),
            )
        )
        for _ in range(2)
    }  # fmt: skip
    assert len(answers) == 1, "what the room held has an influence"
    return answers.pop()


def twin_finds(code: Array, page: Array) -> bool:
    tags = page[RING_SIZE].view(np.uint8)
    ring = [
        TWIN.Query(tuple(map(int, page[:RING_SIZE, i])), int(tags[i]) >> 4, 0) for i in range(page.shape[1])
    ]
    return bool(TWIN.is_middle(TWIN.Query(tuple(map(int, code)), 0, 0), ring))


@given(
    seed=st.integers(0, 10_000),
    length=st.sampled_from(LENGTHS),
    share=st.floats(0.01, 1.0),
    off=st.integers(0, 3),
)
def test_it_finds_what_its_twin_finds(seed: int, length: int, share: float, off: int) -> None:
    rng, filled = np.random.default_rng(seed), max(int(share * length), 1)
    memory, page = draw_page(rng, length, filled)
    code = middle(page, *rng.integers(0, filled, 2))
    code[: off * 2] += np.int16(off)
    assert find(code, memory, length, filled, rng) == twin_finds(code, page)


def test_most_middles_are_found_and_nothing_else_is() -> None:
    rng, length = np.random.default_rng(3), LENGTHS[-1]
    found, asked = 0, 0
    for _ in range(ROUNDS):
        memory, page = draw_page(rng, length, length)
        i, k = rng.integers(0, length, 2)
        code = middle(page, i, k)
        if (page[RING_SIZE, i] ^ page[RING_SIZE, k]) & -16:
            asked += 1
            found += find(code, memory, length, length, rng)
        honest = np.rint(rng.normal(0, 10, RING_SIZE)).astype(np.int16)
        assert not find(honest, memory, length, length, rng)
    assert asked > ROUNDS / 2
    assert found > 0.85 * asked


@pytest.mark.parametrize(("step", "labels"), [(4, (1, 2)), (20, (1, 1))])
def test_ends_that_are_close_or_of_one_class_have_no_middle(step: int, labels: tuple[int, int]) -> None:
    memory, _ = draw_page(np.random.default_rng(4), LENGTHS[0], 2)
    page = memory.reshape(ENTRY_BYTES, LENGTHS[0])
    page[:RING_SIZE, :2] = [[-step, step]] * RING_SIZE
    page[RING_SIZE, :2] = [label << 4 for label in labels]
    origin = np.zeros(RING_SIZE, np.int16)
    assert not find(origin, memory, LENGTHS[0], 2, np.random.default_rng(5))
    page[:RING_SIZE, :2] = [[-20, 20]] * RING_SIZE
    page[RING_SIZE, :2] = [16, 32]
    assert find(origin, memory, LENGTHS[0], 2, np.random.default_rng(5))
