"""The search of a page: what a plain loop over its filled entries finds, whatever lies in the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from detectors.pages import ENTRY_BYTES, LENGTHS
from detectors.ringsearch import RING_LENGTH, RING_SIZE, is_any_within, nearest_entry

if TYPE_CHECKING:
    from detectors.base import Array

cases = given(
    seed=st.integers(0, 10_000),
    length=st.sampled_from(LENGTHS),
    share=st.floats(0.01, 1.0),
    reach=st.sampled_from([2, 20, 128]),
)


def page_of(seed: int, length: int, share: float, reach: int) -> tuple[Array, Array, int, int]:
    """Draw a code and a page somewhere in memory: code, memory, where it begins, entries filled."""
    rng = np.random.default_rng(seed)
    begin, filled = int(rng.integers(0, 40)), max(int(share * length), 1)
    memory = rng.integers(-128, 128, begin + length * ENTRY_BYTES + 40).astype(np.int8)
    page = memory[begin : begin + length * ENTRY_BYTES].reshape(ENTRY_BYTES, length)
    page[:, :filled] = rng.integers(1 - reach, reach, (ENTRY_BYTES, filled))
    code = rng.integers(1 - reach, reach, RING_SIZE).astype(np.int16)
    page[:RING_SIZE, filled:] = code[:, None]  # as near as can be, but not there
    return code, memory, begin, filled


def squared_distances(code: Array, memory: Array, begin: int, length: int, filled: int) -> Array:
    page = memory[begin : begin + length * ENTRY_BYTES].reshape(ENTRY_BYTES, length)
    apart = page[:RING_SIZE, :filled].astype(np.int64) - code[:, None]
    return np.asarray((apart * apart).sum(axis=0))


def room() -> tuple[Array, Array]:
    return np.empty(RING_LENGTH, np.uint16), np.empty(RING_LENGTH, np.int32)


@cases
@example(seed=0, length=256, share=1.0, reach=128)
def test_the_nearest_is_the_latest_of_the_nearest(seed: int, length: int, share: float, reach: int) -> None:
    code, memory, begin, filled = page_of(seed, length, share, reach)
    position = filled if filled < length else seed % length
    squared = squared_distances(code, memory, begin, length, filled)
    lags = (position - 1 - np.arange(filled)) % RING_LENGTH + 1
    lag = int(lags[squared == squared.min()].min())
    found = nearest_entry(code, memory, begin, length, filled, position, *room())
    assert found == (squared.min(), lag)


@cases
def test_an_entry_is_within_a_limit_if_one_is(seed: int, length: int, share: float, reach: int) -> None:
    code, memory, begin, filled = page_of(seed, length, share, reach)
    code *= np.int16(1 + seed % 3)  # the point opposite to another may lie beyond a byte
    squared = squared_distances(code, memory, begin, length, filled)
    for limit in (float(squared.min()), squared.min() + 0.5, float(np.median(squared)), 70_000.0):
        found = is_any_within(code, memory, begin, length, filled, limit, *room())
        assert found == (squared.min() < limit)
