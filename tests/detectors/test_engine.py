from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from traffic import MODEL, augmentation, far_away, honest, interleave, key_batch

from detectors.batch import format_key_reference
from detectors.calibration import fit_reference
from detectors.engine import Engine, EngineSettings, StateError
from detectors.watch import AGAIN_MS

if TYPE_CHECKING:
    from collections.abc import Callable

    from detectors.alert import Alert
    from detectors.batch import EventBatch
    from detectors.reference import ModelReference

FAR, COPIES = 9001, 9002


@cache
def reference() -> ModelReference:
    return fit_reference(MODEL, [honest(number) for number in range(80)])


@cache
def mixed() -> EventBatch:
    return interleave([far_away(FAR), augmentation(COPIES), *(honest(n) for n in range(1000, 1030))])


def calibrated(hot_keys: int = 1000) -> Engine:
    return Engine(EngineSettings(hot_keys=hot_keys), {MODEL: reference()})


def name_of(number: int) -> str:
    return format_key_reference(0, number, number + 1)


def run(engine: Engine, batch: EventBatch, cuts: list[int]) -> list[Alert]:
    edges = [0, *sorted(cuts), len(batch)]
    return [alert for a, b in pairwise(edges) for alert in engine.process(batch.take(slice(a, b)))]


def test_an_attack_that_goes_on_is_told_of_again() -> None:
    batch = far_away(FAR)
    late = replace(batch, time_ms=batch.time_ms + 2 * AGAIN_MS, offset=batch.offset + len(batch))
    engine = calibrated()
    first, again = engine.process(batch), engine.process(late)
    assert again[0].level == first[-1].level == "critical"
    assert again[0].alert_id not in {alert.alert_id for alert in first}
    assert again[0].time_ms == late.time_ms[0], "at once, when it goes on after a pause"
    assert len(again) <= 1 + (late.time_ms[-1] - late.time_ms[0]) / AGAIN_MS


def test_attacks_are_found_early_and_honest_keys_are_left_alone() -> None:
    first: dict[str, Alert] = {}
    for alert in calibrated().process(mixed()):
        first.setdefault(alert.key, alert)
    assert first[name_of(FAR)].query_count <= 20
    assert "out_of_distribution" in first[name_of(FAR)].families
    assert first[name_of(COPIES)].query_count <= 90
    assert first[name_of(COPIES)].families[0] == "near_duplicate"
    assert len(set(first) - {name_of(FAR), name_of(COPIES)}) <= 1


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 3600), max_size=12))
def test_any_cut_into_batches_gives_the_same_alerts_and_state(cuts: list[int]) -> None:
    whole, cut = calibrated(), calibrated()
    assert run(cut, mixed(), cuts) == run(whole, mixed(), [])
    assert cut.dump() == whole.dump()


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(0, 3600), max_size=8))
def test_learning_does_not_depend_on_the_cut_either(cuts: list[int]) -> None:
    whole, cut = (Engine(EngineSettings(), {}) for _ in range(2))
    assert run(cut, mixed(), cuts) == run(whole, mixed(), [])
    assert cut.dump() == whole.dump()


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("at", [0, 700, 1500, 3000])
def test_a_restored_engine_goes_on_as_if_nothing_had_happened(at: int, *, learned: bool) -> None:
    references = {} if learned else {MODEL: reference()}
    steady, before, after = (Engine(EngineSettings(), references) for _ in range(3))
    early, late = mixed().take(slice(0, at)), mixed().take(slice(at, None))
    expected = steady.process(mixed())
    assert before.process(early) == [a for a in expected if a.offset < at]
    after.restore(before.dump())
    assert after.process(late) == [a for a in expected if a.offset >= at]
    assert after.dump() == steady.dump()


def test_a_cold_start_learns_and_then_finds_attacks() -> None:
    engine = Engine(EngineSettings(), {})
    early = engine.process(interleave([honest(n, count=200) for n in range(60)]))
    alerts = engine.process(far_away(FAR))
    assert {a.key for a in alerts} == {name_of(FAR)}
    assert len({a.key for a in early}) <= 3


def test_a_repeat_stays_a_repeat_while_the_reference_is_learned_again() -> None:
    """A poller's inputs are equal for ever, however often what is normal changes."""
    inputs = np.tile(np.random.default_rng(7).standard_normal((20, 32)), (200, 1))
    crowd = [honest(n, count=200) for n in range(60)]
    engine = Engine(EngineSettings(), {})
    engine.process(interleave([*crowd, key_batch(77, inputs)]))
    summary = engine.summary(name_of(77), MODEL)
    assert summary is not None
    assert summary.query_count == 4000
    assert summary.features["near_copy_64"] == 0


def test_an_evicted_key_keeps_its_level_and_its_means() -> None:
    engine = calibrated(hot_keys=8)
    early = engine.process(far_away(FAR, count=40))
    assert early
    for number in range(8):
        engine.process(key_batch(number, honest(number).input_sketch[:5], start_ms=10_000_000))
    assert engine.summary(name_of(FAR), MODEL) is None
    later = engine.process(far_away(FAR, count=10))
    assert {a.level for a in later}.isdisjoint({a.level for a in early})
    summary = engine.summary(name_of(FAR), MODEL)
    assert summary is not None
    assert summary.query_count == 50


def test_a_forgiven_key_is_not_alerted_again_even_after_a_restart() -> None:
    engine = calibrated()
    assert engine.process(far_away(FAR, count=20))
    engine.forgive(name_of(FAR), MODEL)
    assert engine.process(far_away(FAR)) == []
    restarted = calibrated()
    restarted.restore(engine.dump())
    assert restarted.process(far_away(FAR)) == []
    restarted.condemn(name_of(FAR), MODEL)
    assert restarted.process(far_away(FAR))


def test_events_without_sketches_or_margins_are_counted_and_harmless() -> None:
    blank = np.full((50, 32), np.nan, np.float32)
    bare = key_batch(FAR, blank, margin=np.full(50, np.nan, np.float32))
    engine = calibrated()
    assert engine.process(bare) == []
    summary = engine.summary(name_of(FAR), MODEL)
    assert summary is not None
    assert summary.query_count == 50


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b[:50] + bytes([b[50] ^ 1]) + b[51:], lambda _: b""]
)
def test_damaged_state_is_refused_and_says_what_to_do(damage: Callable[[bytes], bytes]) -> None:
    engine = calibrated()
    engine.process(far_away(FAR))
    with pytest.raises(StateError, match="start from an older snapshot"):
        engine.restore(damage(engine.dump()))
    assert engine.key_count == 0


def test_an_alert_explains_itself() -> None:
    alert = calibrated().process(far_away(FAR))[0]
    assert alert.offset == alert.query_count - 1
    assert alert.first_offset == 0
    assert alert.sentence.startswith(f"After {alert.query_count} queries to {MODEL}, this key's inputs are")
    assert alert.features[0].observed > alert.features[0].benign_high
    assert alert.techniques
    assert alert.reference_version == reference().version
    assert alert.e_value_log10 <= np.log10(1 / alert.key_p_value)
