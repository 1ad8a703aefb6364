from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors import riverforest, riverplace, rivertier
from detectors.arrays import pack_arrays, unpack_arrays
from detectors.rivertier import RiverTier

if TYPE_CHECKING:
    from collections.abc import Sequence

    from detectors.base import Array

ODD_SLOT = 2
Rows = tuple["Array", "Array", "Array", "Array"]


def benign(seed: int, count: int, width: int = 5) -> Array:
    return np.random.default_rng(seed).normal(10, 3, (count, width)).astype(np.float32)


def trained(max_keys: int = 8) -> RiverTier:
    """Return a tier with forests for models 0 and 1, and slots 0 to 3 promoted."""
    tier = RiverTier(max_keys)
    for model in (0, 1):
        tier.pretrain(model, benign(model, 1500))
    for slot in range(4):
        tier.promote(slot, 1.0, 0)
    return tier


def traffic(seed: int, count: int) -> Rows:
    """Draw rows of ten slots over three models, one of them without a forest; slot 2 is odd, some NaN."""
    rng = np.random.default_rng(seed)
    slots = rng.integers(0, 10, count)
    features = benign(seed, count)
    features[slots == ODD_SLOT] += 6
    features[rng.random(features.shape) < 0.02] = np.nan
    features[::50] = np.nan
    model = np.where(slots == 3, 1, np.where(slots == 9, 2, 0)).astype(np.int32)
    return slots, model, 10 * np.arange(count, dtype=np.int64), features


def score(tier: RiverTier, rows: Rows, edges: Sequence[int] = ()) -> Array:
    ends = [0, *sorted(edge for edge in edges if edge < len(rows[0])), len(rows[0])]
    return np.concatenate([tier.score(*(column[a:b] for column in rows)) for a, b in pairwise(ends)])


def same_state(one: RiverTier, other: RiverTier) -> bool:
    a, b = one.dump(), other.dump()
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)


def test_an_odd_key_ranks_high_from_its_first_event_and_an_honest_one_in_the_middle() -> None:
    rows = traffic(0, 4000)
    found = score(trained(), rows)
    odd, ordinary = found[rows[0] == ODD_SLOT], found[rows[0] == 1]
    assert odd[0, 0] > 0.9
    assert np.nanmean(odd, axis=0).min() > 0.95
    assert abs(np.nanmean(ordinary, axis=0) - 0.5).max() < 0.07


def test_only_rows_that_can_be_judged_have_scores() -> None:
    slots, model, time_ms, features = traffic(1, 2000)
    tier = trained()
    tier.promote(9, 1.0, 0)
    scored = np.isfinite(tier.score(slots, model, time_ms, features))
    judged = (slots < 4) & np.isfinite(features).any(axis=1)
    assert np.array_equal(scored[:, 0], judged)
    for slot in range(4):
        settled = np.flatnonzero(judged & (slots == slot))[rivertier.SETTLED_EVENTS - 1 :]
        assert np.array_equal(np.flatnonzero(scored[:, 1] & (slots == slot)), settled)


def test_a_change_of_ways_is_seen_although_the_past_was_long_and_honest() -> None:
    tier = trained()
    honest, odd = benign(2, 400), benign(3, 60) + 6
    features = np.concatenate([honest, odd])
    count = len(features)
    rows = np.zeros(count, np.int64), np.zeros(count, np.int32), np.arange(count), features
    mean = score(tier, rows)[:, 1]
    assert mean[399] < 0.6
    assert mean[-1] > 0.9  # over the key's whole life it would be .55


@given(seed=st.integers(0, 1000), edges=st.sets(st.integers(0, 900), max_size=6))
@settings(max_examples=10, deadline=None)
def test_any_cut_of_the_rows_gives_the_same(seed: int, edges: set[int]) -> None:
    rows = traffic(seed, 900)
    whole, parts = trained(), trained()
    kept = [column.copy() for column in rows]
    assert score(whole, rows).tobytes() == score(parts, rows, sorted(edges)).tobytes()
    assert same_state(whole, parts)
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(rows, kept, strict=True))


@given(seed=st.integers(0, 1000), share=st.sampled_from([0.0, 0.01, 0.3]))
@settings(max_examples=10, deadline=None)
def test_a_mean_is_the_same_whichever_others_are_asked_for(seed: int, share: float) -> None:
    rows = traffic(seed, 6000)  # so many that windows are made anew
    whole, sparing = trained(), trained()
    asked = np.random.default_rng(seed).random(6000) < share
    found, every = sparing.score(*rows, asked), score(whole, rows)
    every[~asked, 1] = np.nan
    assert found.tobytes() == every.tobytes()
    assert same_state(whole, sparing)


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_rows_that_wait_are_ranked_before_a_place_goes(seed: int) -> None:
    rng, rows = np.random.default_rng(seed), traffic(seed, 3000)
    eager, waiting = trained(5), trained(5)
    for start in range(0, 3000, 150):
        slots, model, time_ms, features = (column[start : start + 150] for column in rows)
        eager.score(slots, model, time_ms, features)
        waiting.follow(slots, model, time_ms, features)
        slot, level, at = int(rng.integers(0, 12)), float(rng.integers(1, 5)), start
        assert eager.promote(slot, level, at) == waiting.promote(slot, level, at)
        if rng.random() < 0.2:
            eager.demote(slot)
            waiting.demote(slot)
    assert same_state(eager, waiting)


@pytest.mark.parametrize("count", [0, 1, 3000, 12_000, 160_000])
def test_a_restored_tier_goes_on_exactly(count: int) -> None:
    """At 12,000 rows windows were rebuilt and keys thinned; at 160,000 forests have turned over."""
    first, second = trained(), RiverTier(8)
    score(first, traffic(4, count))
    arrays, _ = unpack_arrays(pack_arrays("river", 1, first.dump()), "river", 1)
    second.restore(arrays)
    assert same_state(first, second)
    assert second.promoted == first.promoted
    rows = traffic(5, 9000)
    assert score(first, rows).tobytes() == score(second, rows).tobytes()
    assert same_state(first, second)


def test_the_weakest_goes_first_then_the_least_recently_seen_and_a_weaker_newcomer_is_refused() -> None:
    tier = RiverTier(3)
    assert [tier.promote(1, 2.0, 10), tier.promote(2, 1.0, 20), tier.promote(3, 1.0, 15)] == [None] * 3
    assert list(tier.promoted) == [3, 2, 1]
    assert tier.promote(4, 0.5, 99) == 4
    assert tier.promote(5, 1.0, 30) == 3
    assert tier.promote(2, 3.0, 25) is None
    assert tier.promoted == {5: (1.0, 30), 1: (2.0, 10), 2: (3.0, 25)}
    assert tier.evicted == 1
    tier.demote(1)
    tier.demote(77)
    assert list(tier.promoted) == [5, 2]


def test_a_smaller_tier_restores_the_strongest() -> None:
    tier = RiverTier(4)
    for slot in range(4):
        tier.promote(slot, float(slot), 0)
    smaller = RiverTier(2)
    smaller.restore(tier.dump())
    assert list(smaller.promoted) == [2, 3]


def test_memory_is_bounded_however_long_it_runs() -> None:
    tier = trained()
    sizes = []
    for seed in range(4):
        score(tier, traffic(seed, 20_000))
        sizes.append(sum(array.nbytes for array in tier.dump().values()))
    place = 3 + 2 * riverplace.MEMORY
    forest = 3 * 5 + 2 * riverforest.WINDOW * 5 + 2 * riverforest.RECENT + 3
    assert max(sizes) <= 8 * (4 * place + 2 * forest + 1)


def test_a_busy_key_is_thinned_out() -> None:
    tier, count = trained(), 4096
    rows = np.zeros(count, np.int64), np.zeros(count, np.int32), np.arange(count), benign(6, count)
    scored = np.isfinite(score(tier, rows)[:, 0])
    assert scored[: rivertier.FULL_EVENTS].all()
    assert scored[rivertier.FULL_EVENTS :].mean() == pytest.approx(1 / rivertier.THIN_EVERY, rel=0.01)


@pytest.mark.parametrize("per_s", [20, 20_000])
def test_a_flood_teaches_no_faster_than_once_a_second(per_s: int) -> None:
    tier, count = trained(), 100_000
    time_ms = 1_763_900_000_000 + 1000 * np.arange(count) // per_s
    known = tier.dump()["counts/0"][1]
    score(tier, (np.full(count, 7), np.zeros(count, np.int32), time_ms, benign(6, count)))
    learned = tier.dump()["counts/0"][1] - known
    assert learned == min(count // rivertier.SAMPLE_EVERY, count // per_s)


def test_few_reference_events_do_and_none_is_an_error() -> None:
    tier = RiverTier(2)
    tier.promote(0, 1.0, 0)
    tier.pretrain(0, benign(7, 40))
    rows = (
        np.zeros(2, np.int64),
        np.zeros(2, np.int32),
        np.arange(2),
        np.stack([benign(7, 1)[0] * 0 + 10, benign(7, 1)[0] + 30]),
    )
    found = score(tier, rows)
    assert found[1, 0] > 0.9 > found[0, 0]
    with pytest.raises(ValueError, match="no usable reference event for model 1"):
        tier.pretrain(1, np.full((9, 5), np.nan, np.float32))


def test_tiers_trained_alike_learn_apart() -> None:
    sample, tiers = benign(7, 600), [RiverTier(2), RiverTier(2)]
    for tier in tiers:
        tier.pretrain(0, sample)
    before = tiers[1].dump()
    count = 3 * rivertier.SAMPLE_EVERY
    time_ms = np.arange(count) * rivertier.LEARN_MS
    score(tiers[0], (np.full(count, 7), np.zeros(count, np.int32), time_ms, benign(6, count)))
    after = tiers[1].dump()
    assert tiers[0].dump()["counts/0"][1] > before["counts/0"][1]
    assert all(np.array_equal(after[name], before[name]) for name in before)


def test_a_feature_that_is_constant_or_absent_in_the_reference_does_no_harm() -> None:
    features = benign(8, 600)
    features[:, 1], features[:, 2] = 0.0, np.nan
    tier = RiverTier(2)
    tier.promote(0, 1.0, 0)
    tier.pretrain(0, features)
    rows = np.zeros(40, np.int64), np.zeros(40, np.int32), np.arange(40), benign(9, 40)
    found = score(tier, rows)
    assert np.isfinite(found[:, 0]).all()
    assert np.isfinite(found[-1, 1])


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("place/1", np.zeros(2)),
        ("place/1", np.array([1.0, np.nan, 0.0])),
        ("place/1", np.zeros(3 + 2 * riverplace.MEMORY + 1)),
        ("place/one", np.zeros(3)),
        ("rows/0", np.zeros((3, 5))),
        ("scale/0", np.zeros((3, 5))),
        ("counts/7", np.array([1, 600, 3])),
        ("counts/0", np.array([1])),
    ],
)
def test_a_damaged_dump_is_refused_and_changes_nothing(name: str, array: Array) -> None:
    tier, other = trained(), RiverTier(8)
    other.promote(5, 1.0, 1)
    with pytest.raises(ValueError, match=r"damaged dump|invalid literal|unpack"):
        other.restore(tier.dump() | {name: array})
    assert list(other.promoted) == [5]


def test_the_module_loads_without_river() -> None:
    """River takes seconds to load; a worker without promoted keys must not pay for it."""
    use = "from detectors.rivertier import RiverTier; RiverTier(4).promote(1, 1.0, 1)"
    code = f"import sys; {use}; print('river' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)
    assert done.stdout.strip() == b"False"


def test_a_tier_without_places_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one place"):
        RiverTier(0)
