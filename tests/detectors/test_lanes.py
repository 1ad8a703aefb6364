"""Products of sketches side by side: the sums of a plain loop, wherever the lanes lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba.core.errors import TypingError

from detectors.batch import SKETCH_SIZE
from detectors.lanes import BLOCK, LANES, TOGETHER, load_lanes, project

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDTH = 2 * LANES + BLOCK


@given(
    seed=st.integers(0, 1000),
    begin=st.integers(0, LANES),
    count=st.integers(0, LANES),
    k=st.integers(0, 8),
    first=st.integers(0, SKETCH_SIZE),
)
def test_a_product_is_the_sum_of_its_terms_and_nothing_else_of_it(
    seed: int, begin: int, count: int, k: int, first: int
) -> None:
    rng = np.random.default_rng(seed)
    lanes = rng.integers(-9, 10, (SKETCH_SIZE, WIDTH)).astype(np.float32)  # whole, so that sums are exact
    matrix = rng.integers(-9, 10, (SKETCH_SIZE, 8 + TOGETHER)).astype(np.float32)
    lanes[:first], matrix[:first] = np.nan, np.nan
    lanes[:, :begin], lanes[:, begin + count :] = np.nan, np.nan
    out = np.full((TOGETHER, LANES), np.inf, np.float32)
    project(lanes, begin, matrix, k, first, count, out)
    some = slice(begin, begin + count)
    expected = matrix[first:, k : k + TOGETHER].T @ lanes[first:, some]
    np.testing.assert_array_equal(out[:, :count], expected)
    blocks = -(-count // BLOCK) * BLOCK
    assert np.isinf(out[:, blocks:]).all()


@given(seed=st.integers(0, 1000), start=st.integers(0, 300))
def test_lanes_hold_the_rows_that_are_chosen_less_their_centres(seed: int, start: int) -> None:
    rng = np.random.default_rng(seed)
    sketch, rows = rng.standard_normal((400, SKETCH_SIZE), np.float32), rng.integers(0, 400, 300)
    centres, own = rng.standard_normal((3, SKETCH_SIZE), np.float32), rng.integers(0, 3, 300)
    apart = np.empty((SKETCH_SIZE, LANES), np.float32)
    count = load_lanes(sketch, rows, own, centres, start, apart)
    assert count == min(LANES, 300 - start)
    some = slice(start, start + count)
    np.testing.assert_array_equal(apart[:, :count], (sketch[rows[some]] - centres[own[some]]).T)


@pytest.mark.parametrize("sketch", [np.zeros((9, 64), np.float32)[:, ::2], np.zeros((9, 32))])
def test_rows_that_do_not_lie_close_together_are_refused(sketch: NDArray[Any]) -> None:
    rows, centres = np.zeros(9, np.int64), np.zeros((1, SKETCH_SIZE), np.float32)
    with pytest.raises(TypingError, match="contiguous arrays of float32"):
        load_lanes(sketch, rows, rows, centres, 0, np.empty((SKETCH_SIZE, LANES), np.float32))
