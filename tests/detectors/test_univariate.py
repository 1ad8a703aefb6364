from __future__ import annotations

import importlib.util
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.arrays import pack_arrays, unpack_arrays
from detectors.univariate import STATE_BYTES, UnivariateDetector

if TYPE_CHECKING:
    from collections.abc import Sequence

    from detectors.base import Array

MINUTE_MS = 60_000
WEEK_START_MS = 1_767_571_200_000
Rows = tuple["Array", "Array", "Array"]


def twin() -> Any:
    path = Path(__file__).parent / "twins" / "univariate.py"
    spec = importlib.util.spec_from_file_location("twin_univariate", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Twin()


def traffic(seed: int, count: int, step_ms: int = 5 * MINUTE_MS) -> tuple[Array, Array]:
    """Draw requests per step with a daily rhythm."""
    rng = np.random.default_rng(seed)
    time_ms = WEEK_START_MS + step_ms * np.arange(count, dtype=np.int64)
    day = np.sin(2 * np.pi * (time_ms % 86_400_000) / 86_400_000)
    return time_ms, rng.poisson(200 + 120 * day).astype(float)


def odd_rows(seed: int, count: int = 1500) -> Rows:
    """Draw three series whose scales move, with missing, repeated, late and extreme rows among them."""
    rng = np.random.default_rng(seed)
    series = rng.integers(0, 3, count)
    time_ms = np.cumsum(rng.integers(0, 3 * 3_600_000, count))
    time_ms[rng.random(count) < 0.03] -= 10 * 3_600_000
    scale = 10.0 ** rng.integers(-3, 4)
    value = rng.normal(0, scale, count).round(rng.integers(0, 5)) + rng.choice([0.0, 1e6]) * (series == 1)
    value[rng.random(count) < 0.01] *= 1e4
    value[count // 2 :] *= rng.choice([1e-6, 1.0, 1e3])
    value[rng.random(count) < 0.02] = rng.choice([np.nan, np.inf, -np.inf, 1e31])
    value[rng.random(count) < 0.002] = rng.choice([1e30, -1e30, 5e-324])
    return time_ms, value, series


def score(detector: UnivariateDetector, rows: Rows, edges: Sequence[int] = ()) -> Array:
    ends = [0, *sorted(edge for edge in edges if edge < len(rows[0])), len(rows[0])]
    return np.concatenate([detector.score(*(column[a:b] for column in rows)) for a, b in pairwise(ends)])


def state(detector: UnivariateDetector) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in detector.dump().items()}


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_twin_agrees_on_odd_rows(seed: int) -> None:
    time_ms, value, series = odd_rows(seed)
    twins = [twin() for _ in range(3)]
    theirs = [
        twins[number].score(time, x)
        for time, x, number in zip(time_ms.tolist(), value.tolist(), series.tolist(), strict=True)
    ]
    np.testing.assert_allclose(score(UnivariateDetector(3), (time_ms, value, series)), theirs, 1e-5, 1e-9)


def test_twin_agrees_on_weeks_of_traffic() -> None:
    time_ms, value = traffic(3, 12_000)
    value[9_000:9_040] = 30
    ours = UnivariateDetector().score(time_ms, value)
    reference = twin()
    theirs = [reference.score(time, x) for time, x in zip(time_ms.tolist(), value.tolist(), strict=True)]
    assert np.nanmax(ours) > 0.05
    np.testing.assert_allclose(ours, theirs, 1e-5, 1e-9)


@given(seed=st.integers(0, 10_000), edges=st.lists(st.integers(0, 1500), max_size=8))
@settings(max_examples=25, deadline=None)
def test_any_cut_into_calls_gives_the_same(seed: int, edges: list[int]) -> None:
    rows = odd_rows(seed)
    whole, cut = UnivariateDetector(3), UnivariateDetector(3)
    np.testing.assert_array_equal(score(whole, rows), score(cut, rows, edges))
    assert state(whole) == state(cut)


def test_series_do_not_touch_each_other() -> None:
    time_ms, value, series = odd_rows(1)
    together = score(UnivariateDetector(3), (time_ms, value, series))
    own = series == 2
    np.testing.assert_array_equal(together[own], UnivariateDetector().score(time_ms[own], value[own]))


def test_nothing_of_the_future_is_used() -> None:
    time_ms, value = traffic(0, 3000)
    changed = value.copy()
    changed[2000:] = 1e6
    before, after = (UnivariateDetector().score(time_ms, x)[:2000] for x in (value, changed))
    np.testing.assert_array_equal(before, after)


@given(seed=st.integers(0, 10_000), at=st.integers(0, 1500))
@settings(max_examples=15, deadline=None)
def test_continues_from_a_dump(seed: int, at: int) -> None:
    rows = odd_rows(seed)
    straight, first, second = (UnivariateDetector(3) for _ in range(3))
    expected = score(straight, rows)[at:]
    score(first, tuple(column[:at] for column in rows))  # type: ignore[arg-type] # three columns stay three
    arrays, _ = unpack_arrays(pack_arrays("series", 1, first.dump()), "series", 1)
    second.restore(arrays)
    rest = tuple(column[at:] for column in rows)
    np.testing.assert_array_equal(score(second, rest), expected)  # type: ignore[arg-type] # same
    assert state(second) == state(straight)


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("mean", np.zeros(2), "mean: expected float64 \\(1,\\), found float64 \\(2,\\)"),
        ("mean", np.zeros(1, np.float32), "found float32"),
        ("low", np.full((1, 2), np.nan), "low: not all numbers are finite"),
        ("exponent", np.full((1, 2), 2000, np.int32), "exponent, first: beyond"),
        ("first", np.full((1, 2), 2**60), "exponent, first: beyond"),
        ("seen", np.full((1, 2), -1), "seen, life: a memory"),
        ("life", np.zeros((1, 2, 64), np.uint16), "seen, life: a memory"),
    ],
)
def test_a_damaged_dump_is_refused_and_changes_nothing(name: str, array: Array, said: str) -> None:
    detector = UnivariateDetector()
    detector.score(*traffic(0, 300))
    before = state(detector)
    with pytest.raises(ValueError, match=said):
        detector.restore(detector.dump() | {name: array})
    with pytest.raises(ValueError, match=r"life: expected .* found nothing"):
        detector.restore({})
    assert state(detector) == before


@pytest.mark.parametrize("missing", [np.nan, np.inf, -np.inf, 2e30])
def test_missing_values_have_no_opinion_and_leave_no_trace(missing: float) -> None:
    detector = UnivariateDetector()
    time_ms, value = traffic(0, 500)
    detector.score(time_ms, value)
    before = state(detector)
    assert np.isnan(detector.score(time_ms[-1:] + MINUTE_MS, np.array([missing]))).all()
    assert state(detector) == before


@pytest.mark.parametrize("late_ms", [0, 1, 86_400_000])
def test_repeated_and_late_rows_have_no_opinion_and_leave_no_trace(late_ms: int) -> None:
    detector = UnivariateDetector()
    time_ms, value = traffic(0, 500)
    detector.score(time_ms, value)
    before = state(detector)
    assert np.isnan(detector.score(time_ms[-1:] - late_ms, np.array([1e6]))).all()
    assert state(detector) == before


def test_no_opinion_before_a_hundred_rows() -> None:
    scores = UnivariateDetector().score(*traffic(0, 101))
    assert np.isnan(scores[:100]).all()
    assert np.isfinite(scores[100])


def test_a_burst_gives_one_score_and_a_higher_one_another() -> None:
    time_ms, value = traffic(0, 2000)
    value[1500:1510] = 900
    value[1510] = 9000
    scores = UnivariateDetector().score(time_ms, value)
    assert scores[1500] > 0.3
    assert not scores[1501:1510].any()
    assert scores[1510] > scores[1500]


def test_a_dip_in_the_usual_range_is_found_by_the_rhythm() -> None:
    """At the daily peak the value of the nightly trough is old, only the hour is wrong."""
    time_ms, value = traffic(0, 288 * 28)
    usual = UnivariateDetector().score(time_ms, value)[288 * 21 :]
    noon = 288 * 25 + 72
    value[noon : noon + 12] = 90
    odd = UnivariateDetector().score(time_ms, value)
    assert odd[noon : noon + 12].max() > 0.1
    assert odd[noon : noon + 12].max() > 2 * np.nanmax(usual)


def test_a_value_that_keeps_coming_back_becomes_old() -> None:
    time_ms, value = traffic(0, 4000)
    value[2000::150] = 900
    scores = UnivariateDetector().score(time_ms, value)[2000::150]
    assert scores[0] > 0.3
    assert scores[1:].max() < scores[0] / 5


@given(power=st.integers(-20, 20))
@settings(max_examples=10, deadline=None)
def test_the_unit_of_the_values_does_not_matter(power: int) -> None:
    """Exactly so for powers of two, once the values are far above the narrowest first cell (1e-9)."""
    time_ms, value = traffic(4, 2500)
    value[2000] = 1500
    expected, scaled = (UnivariateDetector().score(time_ms, x) for x in (value, value * 2.0**power))
    np.testing.assert_allclose(scaled, expected, 1e-5, 1e-7)


def test_values_that_differ_by_less_than_a_cell_can_be_numbered_are_survived() -> None:
    time_ms = WEEK_START_MS + MINUTE_MS * np.arange(20_000, dtype=np.int64)
    value = 1e29 + np.spacing(1e29) * np.random.default_rng(0).integers(-1, 2, 20_000)
    value[::4000] = [0.0, -1e29, 1.0, 1e30, 5e-324]
    detector = UnivariateDetector()
    assert np.isfinite(detector.score(time_ms, value)[100:]).all()
    detector.restore(detector.dump())


def test_a_flat_series_is_never_odd_until_it_moves() -> None:
    time_ms = WEEK_START_MS + MINUTE_MS * np.arange(3000, dtype=np.int64)
    value = np.zeros(3000)
    value[-1] = 1
    scores = UnivariateDetector().score(time_ms, value)
    assert not scores[100:-1].any()
    assert scores[-1] > 0.9


def test_a_series_can_be_given_away() -> None:
    rows = odd_rows(5)
    detector, fresh = UnivariateDetector(3), UnivariateDetector(3)
    score(detector, rows)
    detector.forget(np.array([0, 2]))
    kept = {name: array[1].tobytes() for name, array in detector.dump().items()}
    other = UnivariateDetector(3)
    score(other, rows)
    assert kept == {name: array[1].tobytes() for name, array in other.dump().items()}
    own = rows[2] != 1
    again: Rows = (rows[0][own], rows[1][own], rows[2][own])
    np.testing.assert_array_equal(score(detector, again), score(fresh, again))


def test_state_is_within_a_kibibyte() -> None:
    assert STATE_BYTES <= 1024
    assert sum(array.nbytes for array in UnivariateDetector(10).dump().values()) <= 10 * STATE_BYTES


def test_columns_that_do_not_match_are_refused() -> None:
    detector = UnivariateDetector(2)
    one, two = np.zeros(1, np.int64), np.zeros(2, np.int64)
    with pytest.raises(ValueError, match="2 times, 1 values and 2 series"):
        detector.score(two, one.astype(float))
    with pytest.raises(ValueError, match="series 2 to 2 asked for, 0 to 1 exist"):
        detector.score(one, one.astype(float), one + 2)
    assert len(detector.score(one[:0], one[:0].astype(float))) == 0
