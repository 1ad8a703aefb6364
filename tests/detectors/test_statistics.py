"""The kernels of the key level against plain Python, and what the statistics promise."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from traffic import MODEL, honest

from detectors.calibration import fit_reference
from detectors.keylevel import (
    MINIMUM_MASS,
    judge,
    note_levels,
    note_peaks,
    prepare,
    raise_levels,
    repeat_levels,
    standardise,
    surprises,
)
from detectors.search import count_below, cut_range
from detectors.slabs import make_slabs
from detectors.statistics import (
    FAMILIES,
    FAMILY_OF,
    FULL_NOVELTY,
    GROUP_OF,
    HORIZONS,
    LEAST_BET_WEIGHT,
    SCORES,
    STATISTICS,
    VALUE_OF,
    VALUES,
    WEIGHTED,
    WEIGHTED_VALUE,
    event_values,
    update_means,
)
from detectors.track import MEAN_FIELDS

if TYPE_CHECKING:
    from detectors.reference import ModelReference


@lru_cache(maxsize=1)
def reference() -> ModelReference:
    return fit_reference(MODEL, [honest(number, count=40) for number in range(6)])


def plain_means(values: Any, weight: Any, slots: Any, keys: int) -> tuple[Any, Any]:
    """What `update_means` should give, one event and one statistic at a time."""
    mean = np.zeros((keys, len(STATISTICS)))
    mass = np.zeros((keys, len(STATISTICS)))
    out = []
    for row, slot in enumerate(slots):
        for s, statistic in enumerate(STATISTICS):
            value = values[row][VALUES.index(statistic.value)]
            share = weight[row] if statistic.value.weighted else 1.0
            if share > 0 and not np.isnan(value):
                mass[slot, s] = min(mass[slot, s] + share, statistic.horizon)
                mean[slot, s] += (value - mean[slot, s]) * share / mass[slot, s]
        out.append((mean[slot].copy(), mass[slot].copy()))
    return np.array([m for m, _ in out]), np.array([w for _, w in out])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_running_means_equal_plain_python(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.exponential(1, (count, len(VALUES))).astype(np.float32)
    values[rng.random(values.shape) < 0.1] = np.nan
    weight = rng.choice([0.0, 0.3, 1.0], count).astype(np.float32)
    slots = rng.integers(0, 3, count)
    slabs = make_slabs(MEAN_FIELDS, 3)
    mean, mass = (np.empty((count, len(STATISTICS)), np.float32) for _ in range(2))
    columns = (VALUE_OF, HORIZONS, WEIGHTED, WEIGHTED_VALUE)
    update_means(values, weight, slots, *(slabs[n] for n in MEAN_FIELDS), *columns, mean, mass)
    plain_mean, plain_mass = plain_means(values, weight, slots, 3)
    np.testing.assert_allclose(mean, plain_mean, rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(mass, plain_mass, rtol=1e-4)
    for v, value in enumerate(VALUES):
        own = (slots == 1) & ~np.isnan(values[:, v])
        share = weight[own] if value.weighted else np.ones(own.sum())
        if share.sum() > 0:
            average = np.average(values[own, v], weights=share)
            assert slabs["value_mean"][1, v] == pytest.approx(average, rel=2e-3, abs=1e-4)
            spread = np.average((values[own, v] - average) ** 2, weights=share) * share.sum()
            assert slabs["value_square"][1, v] == pytest.approx(spread, rel=2e-2, abs=1e-3)


def test_a_young_key_has_no_opinion_and_an_old_one_is_compared_by_its_spread() -> None:
    one = np.ones(1, np.float32)
    mean = np.full((2, 1), 3.0, np.float32)
    mass = np.array([[MINIMUM_MASS - 1], [64.0]], np.float32)
    z = np.empty((2, 1), np.float32)
    standardise(mean, mass, np.array([128], np.float32), one, 4 * one, 0.5 * one, z)
    assert z[0, 0] == -np.inf
    assert z[1, 0] == pytest.approx((3 - 1) / np.sqrt(0.5 + 4 / 64))


@given(seed=st.integers(0, 10_000), heat=st.sampled_from([0.0, 0.5, 3.0]))
@settings(max_examples=25, deadline=None)
def test_the_judge_says_what_its_three_parts_say_one_after_the_other(seed: int, heat: float) -> None:
    """Without heat keys are too young for any tail to speak, at the highest most do."""
    key, rng = reference().key, np.random.default_rng(seed)
    count, size = 300, len(STATISTICS)
    apart = heat * rng.standard_normal((count, size))
    mean = (key.mean + apart * np.sqrt(key.between_variance + key.within_variance)).astype(np.float32)
    mass = np.minimum(rng.uniform(0, 300, (count, size)) * (heat > 0), HORIZONS).astype(np.float32)
    slots, limit = rng.integers(0, 4, count), np.float32(8)
    level, tails = (key.mean, key.within_variance, key.between_variance), (key.tail_knots, key.tail_surprise)
    z, peak, peaks = (np.zeros((n, size), np.float32) for n in (count, 4, 4))
    overall, found = np.empty(count, np.float32), np.empty(count, np.float32)
    standardise(mean, mass, HORIZONS, *level, z)
    note_peaks(z, slots, peak)
    parts = np.empty((count, size), np.float32), np.empty((count, len(FAMILIES)), np.float32)
    surprises(z, FAMILY_OF, GROUP_OF, *tails, key.tail_slope, limit, *parts, overall)
    prepared = prepare(*tails, key.tail_slope)
    judge(mean, mass, slots, HORIZONS, *level, GROUP_OF, prepared, limit, peaks, found)
    assert found.tobytes() == overall.tobytes()
    assert peaks.tobytes() == peak.tobytes()
    assert (found.max() > 0) == (heat > 0)


def test_each_level_is_reached_once_and_only_upwards() -> None:
    overall = np.array([0, 5, 4, 8, 8, 1, 12, 5], np.float32)
    level = np.zeros(1, np.uint8)
    out = np.empty(len(overall), np.uint8)
    raise_levels(overall, np.zeros(8, np.int64), np.array([4.6, 6.9, 9.2], np.float32), level, out)
    assert out.tolist() == [0, 1, 0, 2, 0, 0, 3, 0]
    assert level[0] == 3


def test_a_key_that_goes_on_is_told_of_again_and_one_that_stopped_is_not() -> None:
    overall = np.array([5, 8, 8, 8, 1, 5, 8, 12], np.float32)
    time_ms = np.array([0, 10, 99, 110, 300, 301, 302, 303])
    slots, thresholds = np.zeros(8, np.int64), np.array([4.6, 6.9, 9.2], np.float32)
    level, told_ms, out = np.zeros(1, np.uint8), np.zeros(1, np.int64), np.empty(8, np.uint8)
    raise_levels(overall, slots, thresholds, level, out)
    assert out.tolist() == [1, 2, 0, 0, 0, 0, 0, 3]
    repeat_levels(overall, slots, time_ms, thresholds, 100, level, told_ms, out)
    assert out.tolist() == [1, 2, 0, 2, 0, 1, 0, 3]
    assert told_ms[0] == 303


def plain_p(score: np.float32, table: Any) -> float:
    """Count ties against surprise."""
    return float("nan") if np.isnan(score) else (sum(c >= score for c in table) + 1) / (len(table) + 1)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 30), st.integers(0, 40))
def test_values_weights_and_bets_equal_plain_python(seed: int, count: int, table_size: int) -> None:
    rng = np.random.default_rng(seed)
    # Few different numbers, so that many scores stand in the tables.
    scores = rng.integers(0, 12, (count, len(SCORES))).astype(np.float32) / np.float32(8)
    scores[rng.random(scores.shape) < 0.2] = np.nan
    kinds = "distance", "embedding", "hardness", "overall"
    tables = [np.sort(rng.integers(0, 12, table_size).astype(np.float32) / 8) for _ in kinds]
    named: dict[str, Any] = {f"{name}_table": table for name, table in zip(kinds, tables, strict=True)}
    known = replace(reference().event, **named)
    values, weight, bets = event_values(scores, known)
    for row in range(count):
        one = dict(zip(SCORES, scores[row], strict=True))
        odd = plain_p(one["input_distance"], tables[0])
        odd = plain_p(one["embedding_distance"], tables[1]) if np.isnan(odd) else odd
        close = plain_p(one["hardness"], tables[2])
        inside = plain_p(-one["overall_distance"], -tables[3])
        strange, hard, deep = (-np.log10(p) for p in (odd, close, inside))
        np.testing.assert_allclose(
            values[row, :4], [strange, strange * hard, hard, deep * hard], rtol=1e-5, atol=1e-6
        )
        taken = [one["log_rate" if v.name == "rate" else v.name] for v in VALUES[4:]]
        np.testing.assert_array_equal(values[row, 4:], taken)
        new = 1.0 if np.isnan(one["novelty"]) else min(one["novelty"] / FULL_NOVELTY, 1.0)
        assert weight[row] == pytest.approx(new**2, rel=1e-6)
        expected = [odd, close] if weight[row] >= LEAST_BET_WEIGHT else [np.nan, np.nan]
        np.testing.assert_allclose(bets[row], expected, rtol=1e-6)


def test_every_statistic_belongs_to_a_family_that_is_reported() -> None:
    assert {s.value.family for s in STATISTICS} == set(FAMILIES)
    assert [FAMILIES[f] for f in FAMILY_OF] == [s.value.family for s in STATISTICS]


@given(seed=st.integers(0, 2**32), count=st.sampled_from([1, 40, 3000]), size=st.integers(0, 60))
def test_values_are_counted_below_as_numpy_does(seed: int, count: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    table = np.sort(rng.choice([rng.standard_normal(), 0.0, 1.0, *rng.standard_normal(9)], size)).astype("f4")
    odd = np.array([np.nan, np.inf, -np.inf, *table], np.float32)
    values = np.where(rng.random(count) < 0.5, rng.choice(odd, count), rng.standard_normal(count)).astype(
        "f4"
    )
    found = np.empty(count, np.uint32)
    count_below(values, table, cut_range(table), found)
    expected = np.where(np.isnan(values), 0, np.searchsorted(table, values, "left"))
    np.testing.assert_array_equal(found, expected)


@given(seed=st.integers(0, 2**32))
def test_a_key_is_promoted_once_by_its_surprise_or_a_bet(seed: int) -> None:
    rng, n = np.random.default_rng(seed), 120
    slots, time_ms = rng.integers(0, 5, n), np.cumsum(rng.integers(0, 60, n))
    overall = rng.choice([0.0, 2.0, 3.9, 4.0, 7.0], n).astype(np.float32)
    e_detector = rng.choice([np.nan, 0.0, 5.9, 6.0, 9.0], (n, 2), p=[0.3, 0.3, 0.3, 0.05, 0.05]).astype("f4")
    thresholds = np.array([4.6, 6.9], np.float32)
    level, told_ms, peak, promoted = (np.zeros(5, kind) for kind in ("u1", "i8", "f4", "u1"))
    levels, strength, promotions = (np.empty(n, kind) for kind in ("u1", "f4", "u1"))
    note_levels(
        overall, e_detector, slots, time_ms, thresholds, 1000, np.float32(3.95), np.float32(6.0),
        level, told_ms, peak, promoted, levels, strength, promotions,
    )  # fmt: skip
    parts, alone, told_alone = np.empty(n, "u1"), np.zeros(5, "u1"), np.zeros(5, "i8")
    raise_levels(overall, slots, thresholds, alone, parts)
    repeat_levels(overall, slots, time_ms, thresholds, 1000, alone, told_alone, parts)
    np.testing.assert_array_equal(levels, parts)
    np.testing.assert_array_equal((level, told_ms), (alone, told_alone))
    seen: set[int] = set()
    for row, slot in enumerate(slots.tolist()):
        bet_on = bool((e_detector[row] >= 6).any())
        assert strength[row] == (max(overall[row], np.float32(3.95)) if bet_on else overall[row])
        assert promotions[row] == (strength[row] >= np.float32(3.95) and slot not in seen)
        seen |= {slot} if promotions[row] else set()
    assert promoted.tolist() == [slot in seen for slot in range(5)]
    assert peak.tolist() == [max([0.0, *overall[slots == slot].tolist()]) for slot in range(5)]
