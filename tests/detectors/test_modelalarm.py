"""The alarm for a model as a whole: several odd keys make it, a few do not, however they are cut."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.arrays import pack_arrays, unpack_arrays
from detectors.modelalarm import (
    KEY_EVENTS,
    LEAST_KEYS,
    MODEL_BUDGETS,
    SURPRISE_LIMIT,
    TRIMMED_KEYS,
    WINDOW,
    ModelAlarm,
    ModelFinding,
    fit_model_alarm,
    trimmed_z,
    weigh,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detectors.reference import ModelAlarmReference

ACTIVE_KEYS = 40
EVENT_MS = 9_000
FIRST_ODD = 1_000_000


class Rows(NamedTuple):
    slots: NDArray[np.int64]
    surprise: NDArray[np.float32]
    time_ms: NDArray[np.int64]

    def cut(self, start: int, stop: int) -> Rows:
        return Rows(self.slots[start:stop], self.surprise[start:stop], self.time_ms[start:stop])

    def then(self, other: Rows) -> Rows:
        """Go on with the other's rows after as many of one's own."""
        n = len(self.slots)
        return Rows(
            np.concatenate([self.slots, other.slots[n:]]),
            np.concatenate([self.surprise, other.surprise[n:]]),
            np.concatenate([self.time_ms, other.time_ms[n:]]),
        )


def honest(seed: int, events: int) -> Rows:
    """Keys that come and go, some busier than others, each as odd as an honest key is."""
    random = np.random.default_rng(seed)
    slots = np.empty(events, np.int64)
    for place in range(ACTIVE_KEYS):
        sessions = random.geometric(1 / 60, events // 20 + 10)
        keys = np.repeat(np.arange(len(sessions)) * ACTIVE_KEYS + place, sessions)
        mine = np.arange(place, events, ACTIVE_KEYS)
        slots[mine] = keys[: len(mine)]
    own = random.exponential(0.5, int(slots.max()) + 1)
    surprise = np.maximum(own[slots] + random.normal(0, 0.1, events), 0).astype(np.float32)
    return Rows(slots, surprise, np.arange(events) * EVENT_MS)


def with_odd(rows: Rows, keys: int, share: float, surprise: float, start: int) -> Rows:
    """Give a share of the events from `start` on to so many odd keys."""
    random = np.random.default_rng(5)
    mine = (np.arange(len(rows.slots)) >= start) & (random.random(len(rows.slots)) < share)
    slots = np.where(mine, FIRST_ODD + np.arange(len(mine)) % keys, rows.slots)
    return Rows(slots, np.where(mine, np.float32(surprise), rows.surprise).astype(np.float32), rows.time_ms)


@lru_cache(maxsize=1)
def reference() -> ModelAlarmReference:
    rows = honest(1, 60_000)
    learned = fit_model_alarm(rows.slots, rows.surprise)
    assert learned is not None
    return learned


@given(
    st.lists(st.tuples(st.integers(-1, 40), st.floats(0, 9, width=32)), min_size=1, max_size=WINDOW),
    st.sampled_from([1, 512, 1024, 1 << 20]),
)
def test_the_window_is_weighed_as_plain_numpy_does(events: list[tuple[int, float]], stride: int) -> None:
    slots = np.array([key * stride if key >= 0 else -1 for key, _ in events], np.int64)
    surprise = np.array([value for _, value in events], np.float32)
    keys, index, counts = np.unique(slots, return_inverse=True, return_counts=True)
    weight = np.minimum(counts, KEY_EVENTS)
    mean = np.bincount(index, np.minimum(surprise, SURPRISE_LIMIT)) / counts
    terms = weight * (mean - 0.5) / 2.0
    known = keys >= 0
    z = np.sort(terms[known])[:-TRIMMED_KEYS].sum() / max(np.square(weight[known]).sum(), 1) ** 0.5

    got_keys, got_terms, got_weight = weigh(slots, surprise, np.array([0.5, 2.0]))
    order = np.argsort(got_keys)
    np.testing.assert_array_equal(got_keys[order], keys[known])
    np.testing.assert_allclose(got_terms[order], terms[known], rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(got_weight[order], weight[known])
    expected = z if known.sum() > TRIMMED_KEYS else -np.inf
    np.testing.assert_allclose(trimmed_z(got_terms, got_weight), expected, rtol=1e-9, atol=1e-9)


def run(rows: Rows, cuts: tuple[int, ...] = ()) -> list[tuple[int, ModelFinding]]:
    alarm = ModelAlarm(reference())
    edges = [0, *sorted(cuts), len(rows.slots)]
    return [
        (start + finding.row, finding)
        for start, stop in pairwise(edges)
        for finding in alarm.process(*rows.cut(start, stop))
    ]


def test_honest_traffic_makes_no_alarm() -> None:
    assert run(honest(2, 60_000)) == []


def test_eight_keys_of_a_quarter_make_one_and_are_named() -> None:
    start = 20_000
    found = run(with_odd(honest(3, 30_000), 8, 0.25, 3.0, start))
    assert found
    row, finding = found[0]
    assert start < row <= start + 2 * WINDOW
    assert finding.false_alarms <= MODEL_BUDGETS[finding.level - 1]
    assert len(set(finding.slots.tolist()) & set(range(FIRST_ODD, FIRST_ODD + 8))) >= len(finding.slots) / 2
    levels = [finding.level for _, finding in found]
    assert levels == sorted(set(levels)), "a level is told of once"


@pytest.mark.parametrize("keys", range(1, TRIMMED_KEYS + 1))
def test_so_few_odd_keys_make_none_however_odd(keys: int) -> None:
    assert run(with_odd(honest(3, 30_000), keys, 0.4, 50.0, 20_000)) == []


def test_it_sounds_again_after_a_calm() -> None:
    rows = honest(4, 60_000)
    odd = with_odd(rows, 8, 0.25, 3.0, 10_000)
    twice = odd.cut(0, 14_000).then(rows.cut(0, 40_000)).then(odd.cut(0, 44_000)).then(rows)
    first, second = [row for row, finding in run(twice) if finding.level == 1 or row > 30_000][:2]
    assert first < 14_000
    assert second > 40_000


@given(st.lists(st.integers(0, 12_000), max_size=12))
def test_cuts_change_nothing(cuts: list[int]) -> None:
    rows = with_odd(honest(6, 12_000), 8, 0.3, 3.0, 6_000)

    def told(found: list[tuple[int, ModelFinding]]) -> list[tuple[int, int, float, list[int]]]:
        return [(row, f.level, f.false_alarms, f.slots.tolist()) for row, f in found]

    assert told(run(rows, tuple(cuts))) == told(run(rows))


def test_a_restored_alarm_goes_on_as_the_dumped_one() -> None:
    rows = with_odd(honest(7, 12_000), 8, 0.3, 3.0, 6_000)
    one, other = ModelAlarm(reference()), ModelAlarm(reference())
    one.process(*rows.cut(0, 6_300))
    other.restore(*one.dump())
    rest = rows.cut(6_300, 12_000)
    told = [[(f.row, f.level, f.slots.tolist()) for f in alarm.process(*rest)] for alarm in (one, other)]
    assert told[0]
    assert told[0] == told[1]


def test_an_alarm_that_sounded_can_be_stored() -> None:
    rows = with_odd(honest(7, 12_000), 8, 0.3, 3.0, 6_000)
    one, other = ModelAlarm(reference()), ModelAlarm(reference())
    assert one.process(*rows.cut(0, 9_000))
    other.restore(*unpack_arrays(pack_arrays("alarm", 1, *one.dump()), "alarm", 1))
    told = [[f.level for f in alarm.process(*rows.cut(9_000, 12_000))] for alarm in (one, other)]
    assert told[0] == told[1]


def test_keys_that_lost_their_slots_are_named_no_more() -> None:
    rows = with_odd(honest(8, 7_000), 8, 0.3, 3.0, 6_000)
    alarm = ModelAlarm(reference())
    alarm.process(*rows.cut(0, 6_500))
    alarm.forget(np.arange(FIRST_ODD, FIRST_ODD + 8))
    after = honest(8, 7_000).cut(6_500, 6_900)
    named = {slot for f in alarm.process(*after) for slot in f.slots.tolist()}
    assert not named & set(range(FIRST_ODD, FIRST_ODD + 8))


def test_too_few_keys_teach_nothing_and_without_a_reference_nothing_is_said() -> None:
    rows = honest(1, 60_000)
    few = rows.slots < LEAST_KEYS - 1
    assert fit_model_alarm(rows.slots[few], rows.surprise[few]) is None
    assert ModelAlarm(None).process(*with_odd(rows, 8, 0.5, 4.0, 0)) == []


def test_a_key_counts_no_more_than_its_cap() -> None:
    """Eight odd keys whose events fill the window weigh no more than with their cap of events each."""
    rows = honest(9, 30_000)
    loud = with_odd(rows, 8, 0.9, 3.0, 20_000)
    assert run(loud)
    assert KEY_EVENTS * 8 < WINDOW / 2, "or the test says nothing"
