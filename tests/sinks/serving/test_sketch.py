"""Sketches: distances kept, the published matrix, exact on the wire."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinks.serving.sketch import Sketcher, decode_sketch, encode_sketch

SKETCHER = Sketcher(784)


def test_the_matrix_is_the_published_one() -> None:
    matrix = np.random.default_rng(20_261_123 + 784).standard_normal((784, 32))
    x = np.random.default_rng(1).random(784)
    assert np.allclose(SKETCHER.sketch(x), x @ matrix / np.sqrt(32), rtol=2e-3, atol=2e-3)
    assert matrix[0, 0] == pytest.approx(
        float.fromhex("-0x1.f729bc705e32cp-4")
    )  # numpy's stream has not moved


@given(st.integers(0, 2**32 - 1), st.integers(1, 600), st.floats(0.01, 100))
@settings(max_examples=60, deadline=None)
def test_distances_are_kept_to_the_stated_spread(seed: int, size: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    x, y = scale * rng.standard_normal((2, 40, size))
    sketcher = Sketcher(size)
    sketch_x, sketch_y = sketcher.sketch(x).astype(np.float64), sketcher.sketch(y).astype(np.float64)
    distance = np.linalg.norm(x - y, axis=1)
    kept = np.linalg.norm(sketch_x - sketch_y, axis=1)
    rounding = 2**-10 * (np.linalg.norm(sketch_x, axis=1) + np.linalg.norm(sketch_y, axis=1)) + 1e-6
    # Chi-square with 32 degrees of freedom: a ratio beyond 0.35 to 1.75 has a chance below 1e-8.
    assert (kept > 0.35 * distance - rounding).all()
    assert (kept < 1.75 * distance + rounding).all()


def test_the_mean_squared_length_is_kept() -> None:
    x = np.random.default_rng(3).standard_normal((4000, 784))
    squared = (SKETCHER.sketch(x).astype(np.float64) ** 2).sum(axis=1) / (x**2).sum(axis=1)
    assert squared.mean() == pytest.approx(1.0, abs=0.02)
    assert squared.std() == pytest.approx(0.25, abs=0.03)


def test_one_input_and_a_batch_agree_in_any_shape() -> None:
    images = np.random.default_rng(4).random((5, 28, 28))
    batch = SKETCHER.sketch(images.reshape(5, 784))
    assert batch.shape == (5, 32)
    assert batch.dtype == np.float16
    for image, row in zip(images, batch, strict=True):
        assert np.allclose(SKETCHER.sketch(image), row, atol=2e-3)


@given(st.lists(st.floats(width=16, allow_nan=False, allow_infinity=False), min_size=32, max_size=32))
def test_the_wire_form_is_exact(numbers: list[float]) -> None:
    text = encode_sketch(np.array(numbers, np.float16))
    assert len(text) == 88
    assert decode_sketch(text).tolist() == numbers


def test_numbers_beyond_float16_are_held_at_its_limit() -> None:
    assert np.isfinite(SKETCHER.sketch(np.full(784, 1e6))).all()


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 1e39])
def test_an_input_that_is_not_finite_is_refused(odd: float) -> None:
    x = np.zeros(784)
    x[3] = odd
    with pytest.raises(ValueError, match="not finite"), np.errstate(over="ignore"):
        SKETCHER.sketch(x)


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 784 numbers an input"):
        SKETCHER.sketch(np.zeros(783))
    with pytest.raises(ValueError, match="32 numbers"):
        encode_sketch(np.zeros(31))
    with pytest.raises(ValueError, match="not finite"):
        encode_sketch(np.full(32, 1e6))
    with pytest.raises(ValueError, match="at least 1"):
        Sketcher(0)


@pytest.mark.parametrize("text", ["", "AAAA", "A" * 88, "é" * 88, "A" * 85 + "!=="])
def test_texts_that_are_no_sketch_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a sketch"):
        decode_sketch(text)
