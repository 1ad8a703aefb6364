from __future__ import annotations

from functools import cache
from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from traffic import MODEL, far_away, honest, interleave, key_batch

from detectors.arrays import ArrayFormatError
from detectors.calibration import fit_reference, fit_tails
from detectors.engine import Engine, EngineSettings
from detectors.keylevel import tail
from detectors.reference import ModelReference


@cache
def reference() -> ModelReference:
    return fit_reference(MODEL, [honest(number) for number in range(80)])


def test_the_budget_holds_on_keys_that_taught_nothing() -> None:
    """On average over what was learned from; one reference of 60 keys may well give 3 %.

    Campaigns have a budget of their own, and customers of equal volumes would exceed it.
    """
    alarmed = 0
    for group in range(8):
        keys = [honest(10_000 * group + number) for number in range(160)]
        engine = Engine(EngineSettings(), {MODEL: fit_reference(MODEL, keys[:60])})
        alarmed += sum(any(a.subject == "key" for a in engine.process(key)) for key in keys[60:])
    assert alarmed / 800 <= 0.02  # 1 %, and three standard errors


def test_attackers_among_the_keys_learned_from_do_not_hide_another() -> None:
    crowd = [honest(n, count=200) for n in range(57)] + [far_away(9000 + n, count=200) for n in range(3)]
    engine = Engine(EngineSettings(), {})
    engine.process(interleave(crowd))
    alerts = engine.process(far_away(9100))
    assert alerts
    assert alerts[0].query_count <= 30


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-5, 50), min_size=2, max_size=300))
def test_a_tail_never_falls_and_never_understates_the_known_keys(peaks: list[float]) -> None:
    column = np.array(peaks, np.float32)[:, None]
    tails = fit_tails(column)
    grid = np.linspace(-6, 80, 200)
    surprise = [tail(z, tails.knots[0], tails.surprise[0], float(tails.slope[0])) for z in grid]
    assert np.all(np.diff(surprise) >= -1e-5)
    assert surprise[-1] < np.inf


def test_an_exponential_tail_is_read_as_one() -> None:
    peaks = np.random.default_rng(3).exponential(2.0, (4000, 1)).astype(np.float32)
    tails = fit_tails(peaks)
    for z in (10.0, 14.0, 20.0):
        read = tail(z, tails.knots[0], tails.surprise[0], float(tails.slope[0]))
        assert read == pytest.approx(z / 2, rel=0.15)


def test_the_overall_tail_is_a_conformal_rank_among_the_known_keys() -> None:
    peaks = np.random.default_rng(4).normal(0, 1, (99, 1)).astype(np.float32)
    tails = fit_tails(peaks)
    largest = float(tails.knots[-1, -1])
    assert tail(largest, tails.knots[-1], tails.surprise[-1], float(tails.slope[-1])) == pytest.approx(
        log(100)
    )


def test_censored_keys_do_not_stretch_the_tail() -> None:
    honest_peaks = np.random.default_rng(5).exponential(1.0, 200)
    attacked = np.concatenate([honest_peaks, np.full(6, 500.0)]).astype(np.float32)[:, None]
    plain, robust = fit_tails(attacked), fit_tails(attacked, contamination_ratio=0.05)
    assert robust.slope[0] > 5 * plain.slope[0]


def test_a_reference_survives_a_round_trip_and_refuses_damage() -> None:
    blob = reference().dump()
    again = ModelReference.load(blob)
    assert again.dump() == blob
    assert again.version == reference().version
    with pytest.raises(ArrayFormatError, match="checksum"):
        ModelReference.load(blob[:-3] + b"abc")


def test_too_few_keys_or_no_sketches_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match="two are the least"):
        fit_reference(MODEL, [honest(1)])
    blank = [key_batch(n, np.full((30, 32), np.nan)) for n in range(3)]
    with pytest.raises(ValueError, match="no event carries a sketch"):
        fit_reference(MODEL, blank)


def test_the_same_keys_give_the_same_reference() -> None:
    keys = [honest(number) for number in range(20)]
    assert fit_reference(MODEL, keys).version == fit_reference(MODEL, keys).version
