"""What the actions do to rates and answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinks.serving.actions import ParameterError, TokenBucket, check_parameters, coarsen, watermark

answers = st.lists(st.floats(0.001, 1), min_size=2, max_size=20).map(
    lambda p: (np.array(p) / sum(p)).tolist()
)


@given(st.floats(0.1, 6_000), st.lists(st.integers(0, 5_000), max_size=300))
def test_a_bucket_never_lets_more_through_than_its_rate_and_its_burst(rate: float, gaps: list[int]) -> None:
    bucket, now_ms, passed = TokenBucket(rate), 0, 0
    for gap in gaps:
        now_ms += gap
        passed += bucket.take(now_ms)
    assert passed <= max(1, rate / 30) + rate * sum(gaps) / 60_000 + 1e-6


def test_a_bucket_of_rate_zero_is_shut_and_a_clock_that_jumps_back_refills_nothing() -> None:
    assert not TokenBucket(0).take(0)
    bucket = TokenBucket(6)
    assert [bucket.take(10_000), bucket.take(0), bucket.take(5_000), bucket.take(10_000)] == [
        True,
        False,
        False,
        True,
    ]
    assert bucket.wait_s() == 10


@given(
    answers,
    st.fixed_dictionaries(
        {},
        optional={
            "decimals": st.integers(0, 6).map(float),
            "top_k": st.integers(1, 5).map(float),
            "label_only": st.sampled_from([0.0, 1.0]),
        },
    ),
)
def test_a_coarser_answer_keeps_the_best_class_and_tells_no_more_than_asked(
    answer: list[float], parameters: dict[str, float]
) -> None:
    coarse = coarsen(answer, parameters)
    assert coarse.argmax() == np.argmax(answer)
    if parameters.get("label_only"):
        assert sorted(coarse)[-2:] == [0, 1]
    elif "top_k" in parameters:
        assert np.count_nonzero(coarse) <= parameters["top_k"]
    if "decimals" in parameters:
        assert np.array_equal(coarse, np.round(coarse, int(parameters["decimals"])))


def test_many_answers_at_once_are_coarsened_each_like_one() -> None:
    rows = np.random.default_rng(0).dirichlet(np.ones(5), 40)
    for parameters in (
        {"decimals": 1.0},
        {"top_k": 2.0},
        {"label_only": 1.0},
        {"top_k": 3.0, "decimals": 2.0},
    ):
        assert np.array_equal(coarsen(rows, parameters), [coarsen(row, parameters) for row in rows])


def test_a_watermark_is_deterministic_secret_and_as_rare_as_asked() -> None:
    answer = [0.1, 0.2, 0.6, 0.1]
    inputs = [b"%d" % n for n in range(4_000)]
    marked = [watermark(answer, raw, b"secret", {"ratio": 0.05}).tolist() for raw in inputs]
    assert marked == [watermark(answer, raw, b"secret", {"ratio": 0.05}).tolist() for raw in inputs]
    changed = [n for n, one in enumerate(marked) if one != answer]
    assert 150 < len(changed) < 250
    assert all(sorted(marked[n]) == sorted(answer) for n in changed)
    assert {int(np.argmax(marked[n])) for n in changed} == {0, 1, 3}
    others = [watermark(answer, raw, b"another", {"ratio": 0.05}).tolist() for raw in inputs]
    assert len({n for n, one in enumerate(others) if one != answer} & set(changed)) < 40


@given(answers)
def test_the_answer_given_is_never_changed(answer: list[float]) -> None:
    given_, before = np.array(answer), np.array(answer)
    coarsen(given_, {"decimals": 0.0, "top_k": 1.0})
    watermark(given_, b"x", b"s", {"ratio": 1.0})
    assert np.array_equal(given_, before)


@pytest.mark.parametrize(
    ("action", "parameters"),
    [
        ("throttle", {}),
        ("throttle", {"requests_per_minute": float("nan")}),
        ("throttle", {"requests_per_hour": 1.0}),
        ("coarsen", {}),
        ("watermark", {"ratio": 1.5}),
        ("suspend", {"decimals": 1.0}),
    ],
)
def test_parameters_that_an_action_cannot_use_are_refused(action: str, parameters: dict[str, float]) -> None:
    with pytest.raises(ParameterError):
        check_parameters(action, parameters)  # type: ignore[arg-type]
