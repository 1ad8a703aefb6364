"""Campaigns: keys fed from one queue are found and named, honest keys that ask alike are not."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from traffic import MODEL, honest, interleave, key_batch

from detectors.arrays import pack_arrays, unpack_arrays
from detectors.batch import format_key_reference
from detectors.calibration import fit_reference
from detectors.campaign.detector import KEYS_PER_MODEL, WEEK_MS
from detectors.campaign.links import agreement, find_groups
from detectors.campaign.pace import CAMPAIGN_BUDGETS, pace_p_values
from detectors.campaign.pooled import owner_ids
from detectors.campaign.summaries import SUMMARY_BYTES, Summaries
from detectors.engine import STATE_VERSION, Engine, EngineSettings, StateError
from detectors.parts import PartWriter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from detectors.alert import Alert
    from detectors.batch import EventBatch
    from detectors.reference import ModelReference

HOUR_MS = 3_600_000
SPLIT = range(5000, 5020)


@cache
def reference() -> ModelReference:
    return fit_reference(MODEL, [honest(number) for number in range(80)])


def asking(number: int, centre: NDArray[np.float64], count: int, span_ms: int = 48 * HOUR_MS) -> EventBatch:
    """A key that asks around a centre, at random times of a span."""
    rng = np.random.default_rng([3, number])
    batch = key_batch(number, rng.normal(centre, 1, (count, 32)))
    times = np.sort(rng.integers(0, span_ms, count))
    margin = rng.beta(8, 1.5, count).astype(np.float32)
    return replace(batch, time_ms=times.astype(np.int64), margin=margin)


def shared_centre() -> NDArray[np.float64]:
    return 0.35 * np.random.default_rng(7).standard_normal(32)


@cache
def split() -> tuple[EventBatch, ...]:
    """One workload dealt at random to 20 keys, none of which is odd."""
    return tuple(asking(number, shared_centre(), 60 + number % 9) for number in SPLIT)


@cache
def customers() -> tuple[EventBatch, ...]:
    """Honest keys of volumes that differ as customers' do, each with a subject of its own."""
    rng = np.random.default_rng(8)
    counts = np.clip(60 * np.exp(1.1 * rng.standard_normal(40)), 15, 600).astype(int)
    return tuple(asking(100 + k, 0.3 * rng.standard_normal(32), int(count)) for k, count in enumerate(counts))


def campaigns(batch: EventBatch, engine: Engine | None = None) -> list[Alert]:
    engine = engine or Engine(EngineSettings(), {MODEL: reference()})
    return [alert for alert in engine.process(batch) if alert.subject == "campaign"]


def names(numbers: Sequence[int]) -> set[str]:
    return {format_key_reference(0, number, number + 1) for number in numbers}


def test_a_split_is_found_alone_and_among_customers_and_its_keys_are_named() -> None:
    for among in ((), customers()):
        alerts = campaigns(interleave([*split(), *among]))
        assert alerts, f"not found among {len(among)} customers"
        last = set(alerts[-1].members)
        assert len(last & names(SPLIT)) >= 18
        assert len(last - names(SPLIT)) <= 2


def test_customers_are_no_campaign_not_even_with_one_subject() -> None:
    assert campaigns(interleave(customers())) == []
    counts = np.random.default_rng(9).lognormal(4, 1.1, 20).astype(int) + 10
    alike = [asking(7000 + k, shared_centre(), int(count)) for k, count in enumerate(counts)]
    assert campaigns(interleave(alike)) == []


def test_a_campaign_goes_on_being_tested_after_weeks_without_traffic() -> None:
    """Or after one event of a client whose clock is weeks ahead."""
    whole = interleave(split())
    for linked in (200, 300, 400, 500):
        late = np.arange(len(whole)) >= linked
        engine = Engine(EngineSettings(), {MODEL: reference()})
        alerts = campaigns(replace(whole, time_ms=whole.time_ms + 5 * WEEK_MS * late), engine)
        assert all(0 < alert.key_p_value <= CAMPAIGN_BUDGETS[0] for alert in alerts)
        assert alerts, f"not found when it paused after {linked} queries"


@given(seed=st.integers(0, 10_000), share=st.sampled_from([0.002, 0.02, 0.5]))
@settings(max_examples=10, deadline=None)
def test_no_clock_of_a_client_stops_the_engine(seed: int, share: float) -> None:
    """Some are years off, for an event or from then on."""
    rng, whole = np.random.default_rng(seed), interleave([*split(), *customers()])
    jumps = np.where(rng.random(len(whole)) < share, rng.integers(-500, 500, len(whole)), 0)
    lasting = np.cumsum(jumps * (rng.random(len(whole)) < 0.2))
    engine = Engine(EngineSettings(), {MODEL: reference()})
    alerts = engine.process(replace(whole, time_ms=whole.time_ms + WEEK_MS * (jumps + lasting)))
    assert all(0 < alert.key_p_value <= 1 for alert in alerts)


def test_a_campaign_alert_says_what_it_found() -> None:
    alert = campaigns(interleave(split()))[-1]
    assert alert.key in alert.members
    assert list(alert.members) == sorted(set(alert.members))
    assert alert.families == ("campaign",)
    assert alert.key_p_value <= CAMPAIGN_BUDGETS[0]
    assert alert.sentence.startswith(
        f"{len(alert.members)} keys with {alert.query_count:,} queries to {MODEL}"
    )
    assert "one queue" in alert.sentence
    spread = next(feature for feature in alert.features if feature.name == "volume_spread")
    assert spread.observed < spread.expected / 2


def test_keys_of_one_tenant_are_no_campaign_for_being_alike() -> None:
    batch = interleave(split())
    owned = replace(batch, tenant=np.zeros(len(batch), np.int32), tenants=("acme",))
    assert campaigns(owned) == []


def test_keys_of_one_tenant_are_judged_as_one_key() -> None:
    rng = np.random.default_rng(4)
    odd = [key_batch(8000 + k, 6 * rng.standard_normal((7, 32)), start_ms=HOUR_MS) for k in range(12)]
    batch = interleave(odd)
    owned = replace(batch, tenant=np.zeros(len(batch), np.int32), tenants=("acme",))
    alerts = Engine(EngineSettings(), {MODEL: reference()}).process(owned)
    assert {alert.subject for alert in alerts} == {"campaign"}, "no key alone has said enough"
    assert set(alerts[0].members) == names(range(8000, 8012))
    assert "one customer" in alerts[0].sentence


def test_tenants_keep_their_number_whatever_batch_names_them() -> None:
    batch = interleave(split())
    rows = np.arange(len(batch)) % 3 - 1
    one = replace(batch, tenant=rows.astype(np.int32), tenants=("a", "b"))
    other = replace(batch, tenant=np.array([-1, 2, 0])[rows + 1].astype(np.int32), tenants=("b", "x", "a"))
    some = np.arange(1, len(batch), 2)
    assert np.array_equal(owner_ids(one, some), owner_ids(other, some))
    assert (owner_ids(one, some) == -1).sum() == (rows[some] == -1).sum()


def test_forgiven_members_silence_their_campaign() -> None:
    engine = Engine(EngineSettings(), {MODEL: reference()})
    for key in names(SPLIT):
        engine.forgive(key, MODEL)
    assert campaigns(interleave(split()), engine) == []


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(0, 1280), max_size=10))
def test_any_cut_and_any_restart_find_the_same(cuts: list[int]) -> None:
    batch = interleave(split())
    whole = Engine(EngineSettings(), {MODEL: reference()})
    expected = whole.process(batch)
    engine = Engine(EngineSettings(), {MODEL: reference()})
    alerts: list[Alert] = []
    for start, stop in pairwise([0, *sorted(cuts), len(batch)]):
        alerts += engine.process(batch.take(slice(start, stop)))
        blob = engine.dump()
        engine = Engine(EngineSettings(), {MODEL: reference()})
        engine.restore(blob)
    assert alerts == expected
    assert engine.dump() == whole.dump()


def test_summaries_are_small_bounded_and_give_way_when_idle() -> None:
    assert SUMMARY_BYTES <= 300
    assert KEYS_PER_MODEL * SUMMARY_BYTES < 5_000_000
    summaries = Summaries(8)
    sketch = np.ones((30, 32), np.float32)

    def add(slots: NDArray[np.int64], time_ms: int) -> None:
        times = np.full(len(slots), time_ms, np.int64)
        summaries.add(slots, times, np.full(len(slots), -1, np.int32), sketch, np.arange(len(slots)))

    add(np.arange(30), 0)
    assert sorted(summaries["slot"]) == list(range(8))
    add(np.array([20]), 1000)
    assert 20 not in summaries["slot"], "nobody was idle"
    add(np.array([20]), 25 * HOUR_MS)
    assert 20 in summaries["slot"]
    assert len(summaries) == 8
    summaries.forget(np.array([20]))
    assert 20 not in summaries["slot"]


def test_a_dump_that_names_unknown_groups_is_refused() -> None:
    engine = Engine(EngineSettings(), {MODEL: reference()})
    engine.process(interleave(split()).take(slice(0, 700)))
    arrays, blobs, meta = PartWriter(STATE_VERSION).read(dict(engine.dump_parts(changed_only=False)))
    linked, counters = unpack_arrays(blobs["campaigns/0"], "campaigns", STATE_VERSION)
    linked["group"][0] = 12345
    blobs["campaigns/0"] = pack_arrays("campaigns", STATE_VERSION, linked, counters)
    writer = PartWriter(STATE_VERSION)
    parts = dict(writer.write(iter(arrays.items()), iter(blobs.items()), meta, changed_only=False))
    with pytest.raises(StateError, match="12345"):
        engine.restore_parts(parts)


def test_rows_without_a_sketch_count_without_content() -> None:
    summaries = Summaries(8)
    sketch = np.ones((5, 32), np.float32)
    sketch[3, 5], sketch[:2] = np.nan, 7
    slots, times = np.zeros(3, np.int64), np.arange(3, dtype=np.int64)
    summaries.add(slots, times, np.full(3, -1, np.int32), sketch, np.array([2, 3, 4]))
    assert summaries["count"][0] == 3
    assert summaries["linked_mass"][0] == 2
    assert np.array_equal(summaries["linked"][0], np.full(32, 2, np.float32))


def test_even_shares_are_rare_among_customers_and_uneven_ones_are_not() -> None:
    rng = np.random.default_rng(5)
    few = np.zeros(20, np.int64)
    queue = rng.multinomial(600, np.full(20, 1 / 20))
    whole = np.array([0, 20])
    assert pace_p_values(queue, few, whole) < 1e-6
    assert pace_p_values(np.full(5, 40), few[:5], np.array([0, 5])) < 1e-6, "taking turns"
    assert pace_p_values(few + 1, few, whole) == 1.0, "too few to tell"


@pytest.mark.parametrize("keys", [5, 20, 100])
def test_the_p_value_of_customers_is_no_smaller_than_it_says(keys: int) -> None:
    rng = np.random.default_rng(keys)
    groups = 2000
    counts = np.rint(rng.lognormal(4, 1.0, groups * keys)).astype(np.int64)
    p_values = pace_p_values(counts, np.zeros_like(counts), np.arange(groups + 1) * keys)
    assert (p_values <= 0.01).mean() <= 0.015


def test_groups_are_disjoint_and_point_one_way() -> None:
    rng = np.random.default_rng(6)
    a, b = rng.standard_normal((2, 32))
    profiles = np.concatenate(
        [
            a + 0.3 * rng.standard_normal((10, 32)),
            b + 0.3 * rng.standard_normal((6, 32)),
            rng.standard_normal((4, 32)),
        ]
    ).astype(np.float32)
    groups = [set(group.tolist()) for group in find_groups(profiles, 0.7, 0)]
    assert groups == [set(range(10)), set(range(10, 16))]
    assert agreement(profiles[:10], profiles[5:10]) > 0.9
    assert agreement(profiles[:10], -profiles[5:10]) < -0.9
    assert find_groups(np.zeros((0, 32), np.float32), 0.7, 0) == []
