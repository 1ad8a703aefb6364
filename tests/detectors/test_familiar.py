"""What keys are told apart by the inputs that other keys know, and by sweeps of request parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from detectors.base import score
from detectors.batch import EventBatch, build_batch
from detectors.calibration import fit_reference
from detectors.familiar import POINTS_PER_CLASS, find_near, learn_points
from detectors.signals.request_parameters import RequestParameters
from detectors.slabs import make_slabs
from detectors.statistics import STATISTICS
from detectors.track import TRACK_FIELDS, Track

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOPICS = np.random.default_rng(1).standard_normal((300, 32)).astype(np.float32)
"""What honest customers ask about; each key asks some of it in its own words."""


def asking(number: int, topics: NDArray[np.float32], count: int = 150) -> EventBatch:
    """One key that asks about some topics."""
    rng = np.random.default_rng([5, number])
    inputs = topics[rng.integers(0, len(topics), count)] + 0.1 * rng.standard_normal((count, 32))
    return build_batch(
        key=np.full((count, 2), number, np.uint64),
        time_ms=1000 * np.arange(count, dtype=np.int64),
        model=np.zeros(count, np.int32),
        models=("toy",),
        topic="events",
        offset=np.arange(count, dtype=np.int64),
        input_sketch=inputs,
        embedding_sketch=inputs,
        predicted_class=np.zeros(count, np.int32),
        margin=np.full(count, 0.9),
    )


def test_points_are_bounded_and_lie_in_their_class() -> None:
    rng = np.random.default_rng(2)
    rows = [rng.integers(0, 3, 400) for _ in range(6)]
    inputs = [(row[:, None] * 100 + rng.standard_normal((400, 32))).astype(np.float32) for row in rows]
    inputs[0][::7] = np.nan
    points, start, distance = learn_points(inputs, rows, 4, 0.4)
    assert np.isfinite(points).all()
    assert np.diff(start).tolist() == [POINTS_PER_CLASS] * 3 + [0]
    for row in range(3):
        assert np.abs(points[:, start[row] : start[row + 1]].mean() - 100 * row) < 1
    assert 0 < distance[0] < 20


def test_the_stated_share_of_other_keys_inputs_is_near_a_point() -> None:
    rng = np.random.default_rng(3)
    inputs = [rng.standard_normal((100, 32)).astype(np.float32) for _ in range(40)]
    rows = [np.zeros(100, np.int64)] * 40
    points, start, distance = learn_points(inputs[:30], rows[:30], 1, 0.4)
    fresh = np.concatenate(inputs[30:])
    norms = np.square(points).sum(axis=0)
    near = np.empty(len(fresh), np.bool_)
    every, own = np.ones(len(fresh), np.bool_), np.zeros(len(fresh), np.int64)
    among = np.repeat(fresh, 2, axis=0)
    among[::2] = 0
    at = np.arange(1, len(among), 2)
    find_near(among, at, own, every, points, norms, start, distance[0], near)
    assert near.mean() == pytest.approx(0.4, abs=0.08)


def test_no_keys_inputs_are_familiar_before_any_point() -> None:
    absent = [np.full((5, 32), np.nan, np.float32)] * 2
    points, start, distance = learn_points(absent, [np.zeros(5, np.int64)] * 2, 1, 0.4)
    assert points.shape == (32, 0)
    assert start.tolist() == [0, 0]
    assert distance.tolist() == [0.0]


def test_a_key_that_asks_what_nobody_asks_stands_out() -> None:
    others = np.random.default_rng(4).standard_normal((300, 32)).astype(np.float32)
    honest = [asking(number, TOPICS) for number in range(40)]
    reference = fit_reference("toy", honest)

    column = [s.value.name for s in STATISTICS].index("unfamiliar")

    def peak(batch: EventBatch) -> float:
        slabs = make_slabs(TRACK_FIELDS, 1)
        progress = Track(reference.event).advance(
            batch, np.arange(len(batch)), np.zeros(len(batch), np.int64), slabs
        )
        return float(progress.mean[:, column].max())

    known = [peak(asking(number, TOPICS)) for number in range(50, 60)]
    assert peak(asking(70, others)) > max(known) + 1


def requests(prompts: list[int], bias: int, limit: int) -> EventBatch:
    count = len(prompts)
    return build_batch(
        key=np.zeros((count, 2), np.uint64),
        time_ms=np.arange(count, dtype=np.int64),
        model=np.zeros(count, np.int32),
        models=("toy",),
        topic="events",
        offset=np.arange(count, dtype=np.int64),
        prefix_hash=np.array(prompts, np.uint64),
        logit_bias_count=np.full(count, bias),
        max_tokens=np.full(count, limit),
    )


def sweep_score(batch: EventBatch) -> NDArray[np.float32]:
    signal = RequestParameters(fit_reference("toy", [asking(0, TOPICS), asking(1, TOPICS)]).event)
    return score(signal, batch, np.zeros(len(batch), np.int64), make_slabs(signal.fields, 1))[:, 0]


@pytest.mark.parametrize(
    ("prompts", "bias", "limit"),
    [
        (list(range(1, 101)), 5, 1),  # a classifier that biases its labels
        ([1] * 100, 0, 1),  # a poller
        ([1] * 100, 5, 400),  # a writer with banned words
        ([n // 2 for n in range(100)][:4], 5, 1),  # one retry
    ],
)
def test_each_trait_of_a_sweep_by_itself_is_honest(prompts: list[int], bias: int, limit: int) -> None:
    assert sweep_score(requests(prompts, bias, limit)).max() < 0.05


@pytest.mark.parametrize("bias", [1, 5, 300])
def test_a_sweep_is_evident_after_the_third_repeat(bias: int) -> None:
    score = sweep_score(requests([9] * 40, bias, 1))
    assert score[3] > 0.3
    assert (np.diff(score[3:16]) > 1).all()
    assert np.isfinite(score).all()


def test_a_sweep_over_some_prompts_in_turn_is_still_one() -> None:
    assert sweep_score(requests([1, 2, 3, 4, 5] * 4, 5, 1)).max() > 3


def test_events_without_parameters_leave_no_trace() -> None:
    assert np.isnan(sweep_score(requests([1] * 5, -1, -1))).all()
