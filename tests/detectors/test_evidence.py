"""The evidence core: valid bets, exact bins, the promised mean time to a false alarm, and a twin."""

from __future__ import annotations

import math
from itertools import pairwise, product
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors import evidence
from detectors.slabs import make_slabs

if TYPE_CHECKING:
    from detectors.base import Array

EXPERTS = list(product(evidence.KAPPAS, evidence.RHOS))
P_VALUE = st.one_of(
    st.just(math.nan), st.floats(0, 1, width=32), st.sampled_from([0.0, 1.0, 1e-12, 2.0, -1.0])
)


def fresh(keys: int, scores: int) -> Array:
    return make_slabs(evidence.evidence_fields(scores), keys)["evidence"]


@pytest.mark.parametrize(("kappa", "rho"), EXPERTS)
def test_a_bet_has_mean_one_and_its_table_never_more(kappa: float, rho: float) -> None:
    edges = evidence.bin_edges()
    lower = np.concatenate([[0.0], edges[:-1]])
    exact = (1 - rho) * (edges - lower) + rho * (edges**kappa - lower**kappa)
    assert exact.sum() == pytest.approx(1)
    wins = evidence.bet_table()[:, EXPERTS.index((kappa, rho))].astype(float)
    assert (wins * (edges - lower) <= exact).all()
    assert 0.8 < (wins * (edges - lower)).sum() <= 1


@given(st.floats(0, 1, width=32))
@settings(deadline=None)
def test_a_win_is_never_more_than_the_exact_bet_and_within_an_eighth_of_p(p: float) -> None:
    slab = fresh(1, 1)
    evidence.update(np.array([[p]]), np.zeros(1, np.int64), slab)
    for won, (kappa, rho) in zip(slab[0, 0].astype(float), EXPERTS, strict=True):
        assert won >= evidence.bet(min(max(p * 1.13, 2.7e-10), 1.0), kappa, rho) * (1 - 1e-6)
        if p > 0:
            assert won <= evidence.bet(p, kappa, rho)


def twin(
    p: list[list[float]], slots: list[int], values: dict[tuple[int, int], list[float]]
) -> list[list[float]]:
    """Do as `update` does, in plain Python with doubles and a search for the bin."""
    edges = evidence.bin_edges().tolist()
    out = []
    for row, slot in zip(p, slots, strict=True):
        logs = []
        for column, value in enumerate(row):
            experts = values.setdefault((slot, column), [0.0] * len(EXPERTS))
            if 0 <= value <= 1:
                edge = next(e for e in edges if value <= e)
                for number, (kappa, rho) in enumerate(EXPERTS):
                    won = (experts[number] + 1) * (1 - rho + rho * kappa * edge ** (kappa - 1))
                    experts[number] = min(won, 1e30)
            mean = sum(experts) / len(experts)
            logs.append(math.log10(mean) if mean else math.nan)
        out.append(logs)
    return out


@given(
    rows=st.lists(st.tuples(st.integers(0, 3), P_VALUE, P_VALUE), max_size=40),
    cuts=st.sets(st.integers(0, 40)),
)
@settings(deadline=None)
def test_the_kernel_equals_its_twin_however_the_rows_are_cut(
    rows: list[tuple[int, float, float]], cuts: set[int]
) -> None:
    p = np.array([row[1:] for row in rows], np.float32).reshape(-1, 2)
    slots = np.array([row[0] for row in rows], np.int64)
    whole, parts, kept = fresh(4, 2), fresh(4, 2), p.copy()
    found = evidence.update(p, slots, whole)
    edges = [0, *sorted(cut for cut in cuts if cut < len(rows)), len(rows)]
    pieces = [evidence.update(p[a:b], slots[a:b], parts) for a, b in pairwise(edges)]
    assert np.array_equal(np.concatenate(pieces), found, equal_nan=True)
    assert np.array_equal(whole, parts)
    assert np.array_equal(p, kept, equal_nan=True)
    expected = np.array(twin(p.tolist(), slots.tolist(), {})).reshape(-1, 2)
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-5, equal_nan=True)


def test_the_value_saturates_and_comes_back() -> None:
    slab = fresh(1, 1)
    slots = np.zeros(200, np.int64)
    low = evidence.update(np.zeros((200, 1), np.float32), slots, slab)
    assert np.isfinite(slab).all()
    assert low[-1, 0] == pytest.approx(30, abs=1e-4)
    high = evidence.update(np.ones((200, 1), np.float32), slots, slab)
    assert (np.diff(high[:, 0]) < 0).all()


def test_under_the_null_the_mean_value_after_n_events_is_at_most_n() -> None:
    """E[R_n] <= n is what the bound on false alarms rests on; the table's rounding makes it a little less.

    Small kappas have heavy tails, so that a simulated mean lies below; it may not lie above.
    """
    rng = np.random.default_rng(1)
    keys, events = 20_000, 50
    slab = fresh(keys, 1)
    for _ in range(events):
        evidence.update(rng.random((keys, 1), dtype=np.float32), np.arange(keys), slab)
    mean = slab[:, 0].astype(float).mean(axis=0)
    error = slab[:, 0].astype(float).std(axis=0) / math.sqrt(keys)
    assert (mean <= events + 4 * error).all()
    light = [n for n, (kappa, rho) in enumerate(EXPERTS) if kappa == 0.6 and rho <= 0.1]
    assert (mean[light] > 0.9 * events).all()


@pytest.mark.parametrize("threshold", [20.0, 100.0])
def test_the_mean_time_to_a_false_alarm_is_at_least_the_threshold(threshold: float) -> None:
    rng = np.random.default_rng(2)
    keys, most = 2_000, 2_000
    slab = fresh(keys, 1)
    alarm = np.full(keys, most)
    for event in range(1, most + 1):
        log = evidence.update(rng.random((keys, 1), dtype=np.float32), np.arange(keys), slab)[:, 0]
        alarm = np.where((alarm == most) & (log >= math.log10(threshold)), event, alarm)
        if (alarm < event).all():
            break
    # Keys without an alarm count as alarmed at the end: that makes the mean smaller, so the test stricter.
    assert alarm.mean() >= threshold - 4 * alarm.std() / math.sqrt(keys)


def test_a_tenth_of_odd_events_is_found() -> None:
    rng = np.random.default_rng(3)
    p = rng.random((1000, 50), dtype=np.float32)
    p[rng.random(p.shape) < 0.1] = 1e-3
    found = evidence.update(p.reshape(-1, 1), np.tile(np.arange(50), 1000), fresh(50, 1)).reshape(1000, 50)
    assert np.median((found >= 6).argmax(axis=0)) < 300
    assert (found >= 6).any(axis=0).all()


@given(
    table=st.lists(st.integers(-3, 3), max_size=12),
    score=st.one_of(st.integers(-4, 4).map(float), st.just(math.inf), st.just(-math.inf), st.just(math.nan)),
    uniform=st.floats(0.015625, 0.984375, width=32),
)
def test_a_p_value_counts_what_the_formula_says(table: list[int], score: float, uniform: float) -> None:
    benign = np.array(sorted(table), np.float32)
    found = float(evidence.p_values(np.array([score]), benign, np.array([uniform])).item())
    if math.isnan(score) or not table:
        assert math.isnan(found)
        return
    above, equal = sum(c > score for c in table), sum(c == score for c in table)
    exact = (above + uniform * (1 + equal)) / (len(table) + 1)
    assert found == pytest.approx(max(exact, 1 / (len(table) + 1)), rel=1e-6)


@pytest.mark.parametrize("ties", [False, True])
def test_p_values_of_benign_scores_are_uniform_and_never_too_small(*, ties: bool) -> None:
    rng = np.random.default_rng(4)
    count = 200_000

    def draw(size: int) -> Array:
        scores = rng.gamma(2.0, size=size)
        return np.where(rng.random(size) < 0.5, 0.0, np.round(scores, 1)) if ties else scores

    table = evidence.quantile_table(draw(count))
    assert len(table) == evidence.KNOTS
    uniform = evidence.tie_uniforms(np.arange(count, dtype=np.uint64), 1)[:, 0]
    p = evidence.p_values(draw(count), table, uniform)
    assert p.min() == np.float32(1 / (evidence.KNOTS + 1))
    for level in (0.01, 0.1, 0.5, 0.9):
        assert (p <= level).mean() == pytest.approx(level, abs=2 / evidence.KNOTS + 4 / math.sqrt(count))


@given(st.lists(st.floats(allow_nan=True, width=32), max_size=50))
def test_a_small_table_holds_every_finite_score(scores: list[float]) -> None:
    table = evidence.quantile_table(np.array(scores, np.float32))
    assert table.tolist() == sorted(s for s in scores if math.isfinite(s))


def test_tie_uniforms_are_uniform_open_and_fixed() -> None:
    seed = np.arange(100_000, dtype=np.uint64)
    drawn = evidence.tie_uniforms(seed, 2)
    assert drawn.dtype == np.float32
    assert 0 < drawn.min() <= drawn.max() < 1
    counts = np.histogram(drawn[:, 0], 20, (0, 1))[0]
    assert abs(counts - 5000).max() < 350
    assert abs(np.asarray(np.corrcoef(drawn.T))[0, 1]) < 0.02
    assert np.array_equal(evidence.tie_uniforms(seed[50:60], 2), drawn[50:60])
