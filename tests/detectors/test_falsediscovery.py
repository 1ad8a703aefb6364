from __future__ import annotations

from dataclasses import replace
from math import exp, log, log10, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr
from traffic import MODEL, augmentation, far_away, honest, interleave

from detectors.calibration import fit_reference
from detectors.engine import Engine, EngineSettings
from detectors.falsediscovery import ALERTED, OnlineFalseDiscovery, alerted_e_value_log10, e_bh, weight

if TYPE_CHECKING:
    from collections.abc import Callable

RATIO = 0.1
KEYS = 3000


def alone(rng: np.random.Generator) -> Any:
    return rng.random(KEYS)


def together(rng: np.random.Generator) -> Any:
    """Nine tenths of every honest key's oddness is what all share that day."""
    return ndtr(sqrt(0.9) * rng.standard_normal() + sqrt(0.1) * rng.standard_normal(KEYS))


def copies(rng: np.random.Generator) -> Any:
    """Honest keys come in groups of thirty that look the same."""
    return rng.random(KEYS // 30).repeat(30)


def simulate(rng: np.random.Generator, nulls: Callable[..., Any], attackers: int) -> tuple[float, int]:
    """Run honest keys and attackers through alerts and e-LOND; return the false share and the true number."""
    p = np.concatenate([nulls(rng), 10 ** -rng.uniform(2, 9, attackers)])
    control = OnlineFalseDiscovery(RATIO)
    found = [
        bool(key < KEYS)
        for key in rng.permutation(len(p))
        if p[key] <= ALERTED and control.test(control.enter(), alerted_e_value_log10(float(p[key])))
    ]
    return sum(found) / max(len(found), 1), len(found) - sum(found)


@pytest.mark.parametrize("nulls", [alone, together, copies])
@pytest.mark.parametrize("attackers", [0, 3, 30])
def test_at_most_the_stated_share_of_discoveries_is_false(nulls: Callable[..., Any], attackers: int) -> None:
    rng = np.random.default_rng([attackers, len(nulls.__name__)])
    shares, found = zip(*(simulate(rng, nulls, attackers) for _ in range(300)), strict=True)
    assert np.mean(shares) <= RATIO + 3 * np.std(shares) / sqrt(len(shares))
    assert np.mean(found) >= 0.2 * attackers


def test_the_simulation_can_fail() -> None:
    """Calling every alert a discovery breaks the bound: the test above would notice."""
    rng = np.random.default_rng(1)
    shares = []
    for _ in range(50):
        false = int((alone(rng) <= ALERTED).sum())
        shares.append(false / (false + 3))
    assert np.mean(shares) > 5 * RATIO


@given(st.floats(0, 1))
@settings(max_examples=20)
def test_an_alerted_honest_key_has_an_e_value_of_mean_one(shift: float) -> None:
    """Its mean by the trapezoid rule in ln p, and Markov's bound at every threshold."""
    log_u = np.linspace(-200, 0, 2001)
    values = [10 ** alerted_e_value_log10(ALERTED * exp(u)) * exp(u) for u in log_u]
    assert float(np.trapezoid(values, log_u)) == pytest.approx(1, abs=1e-3)
    threshold = 10 ** (4 * shift)
    reached = (0.1 / threshold) ** (1 / 0.9)
    assert alerted_e_value_log10(ALERTED * reached) == pytest.approx(log10(threshold), abs=1e-9)
    assert reached <= 1 / threshold


def test_the_weights_spend_no_more_than_the_budget() -> None:
    first = sum(weight(number) for number in range(1, 100_001))
    u = np.linspace(log(100_000), 2000, 2_000_000)
    rest = float(np.trapezoid(0.0772 * u * np.exp(-np.sqrt(u)), u))
    assert 0.9 < first + rest <= 1.0


@given(st.lists(st.floats(-1, 12), max_size=60), st.floats(0.01, 0.5))
def test_it_equals_its_plain_definition_and_survives_restarts(stream: list[float], ratio: float) -> None:
    control, discoveries = OnlineFalseDiscovery(ratio), 0
    for t, value in enumerate(stream, start=1):
        beta = 0.0772 * log(max(t, 2)) / (t * exp(sqrt(log(t))))
        expected = 10.0**value >= (1 / (ratio * beta * (discoveries + 1))) * (1 - 1e-12)
        discoveries += expected
        again = OnlineFalseDiscovery(ratio)
        again.restore(*control.dump())
        control = again
        assert control.test(control.enter(), value) == expected
    assert control.dump() == (len(stream), discoveries)


@pytest.mark.parametrize("state", [(1, 2), (-1, -1), (3, -1)])
def test_impossible_states_are_refused(state: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="impossible"):
        OnlineFalseDiscovery(RATIO).restore(*state)


@given(st.lists(st.floats(-2, 6), max_size=40), st.floats(0.01, 0.5))
@settings(max_examples=200)
def test_e_bh_equals_its_plain_definition(values: list[float], ratio: float) -> None:
    chosen = e_bh(np.array(values), ratio)
    best = 0
    for k in range(1, len(values) + 1):
        if sorted(values, reverse=True)[k - 1] >= log10(len(values) / (ratio * k)):
            best = k
    least = sorted(values, reverse=True)[best - 1] if best else np.inf
    assert chosen.tolist() == [value >= least for value in values]


@pytest.mark.parametrize("nulls", [alone, together, copies])
def test_e_bh_keeps_its_share_too(nulls: Callable[..., Any]) -> None:
    rng = np.random.default_rng(9)
    shares, found = [], []
    for _ in range(300):
        p = np.concatenate([nulls(rng), 10 ** -rng.uniform(4, 12, 30)])
        chosen = e_bh(log10(0.1) - 0.9 * np.log10(p), RATIO)
        shares.append(chosen[:KEYS].sum() / max(chosen.sum(), 1))
        found.append(chosen[KEYS:].sum())
    assert np.mean(shares) <= RATIO + 3 * np.std(shares) / sqrt(len(shares))
    assert np.mean(found) > 5


def test_the_engine_marks_a_key_once_and_keeps_its_word_over_restarts() -> None:
    small = fit_reference(MODEL, [honest(number) for number in range(80)])
    known = replace(small.key, key_count=np.array([1500]))  # lets the tail speak of smaller p-values
    reference = replace(small, key=known)
    generous = EngineSettings(false_discovery_ratio=0.5)
    batch = interleave([*map(far_away, range(8000, 8003)), *map(augmentation, range(9000, 9006))])
    whole, cut = (Engine(generous, {MODEL: reference}) for _ in range(2))
    alerts = whole.process(batch)
    found = []
    for start in range(0, len(batch), 37):
        found += cut.process(batch.take(slice(start, start + 37)))
        cut.restore(cut.dump())
    assert found == alerts
    assert {alert.is_discovery for alert in alerts} == {True, False}
    for key in {alert.key for alert in alerts}:
        marks = [alert.is_discovery for alert in alerts if alert.key == key and alert.subject == "key"]
        assert marks == sorted(marks)
