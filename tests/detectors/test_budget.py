from __future__ import annotations

from dataclasses import replace
from functools import cache
from math import isfinite, log2, sqrt
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from traffic import MODEL, honest, interleave, key_batch

from detectors.alert import is_budget_alert
from detectors.base import score
from detectors.batch import build_batch, format_key_reference
from detectors.budget import CURVES, NEEDED_QUERIES, PARTS, Budget, copy_agreement, fit_extraction
from detectors.budgetalert import tell
from detectors.calibration import fit_reference
from detectors.engine import Engine, EngineSettings
from detectors.reference import ExtractionReference, ModelReference
from detectors.signals.coverage import Coverage, label_nats
from detectors.slabs import make_slabs

if TYPE_CHECKING:
    from typing import Any

    from detectors.alert import Alert
    from detectors.batch import EventBatch

SWEEP = 7001


@cache
def reference() -> ModelReference:
    return fit_reference(MODEL, [honest(number) for number in range(80)])


def extraction() -> ExtractionReference:
    found = reference().extraction
    assert found is not None
    return found


def ordinary(count: int, seed: int = 5) -> Any:
    """Inputs spread like all customers' together."""
    rng = np.random.default_rng(seed)
    return 0.3 * rng.standard_normal((count, 32)) + rng.standard_normal((count, 32))


def alerts_of(batch: EventBatch, **changes: Any) -> list[Alert]:
    engine = Engine(EngineSettings(), {MODEL: replace(reference(), **changes)})
    return [alert for alert in engine.process(batch) if is_budget_alert(alert)]


def held_after(batch: EventBatch) -> float:
    engine = Engine(EngineSettings(), {MODEL: reference()})
    engine.process(batch)
    key = format_key_reference(int(batch.key_epoch[0]), *batch.key[0])
    summary = engine.summary(key, MODEL)
    assert summary is not None
    return summary.held_queries


def test_ordinary_distinct_queries_count_nearly_in_full() -> None:
    assert 850 < held_after(key_batch(SWEEP, ordinary(1000))) <= 1000


@pytest.mark.parametrize(
    ("inputs", "most"),
    [
        pytest.param(np.tile(ordinary(50), (20, 1)), 60, id="the same fifty again and again"),
        pytest.param(
            np.repeat(ordinary(200), 5, axis=0), 330, id="retries: repeats are sampled, not counted"
        ),
        pytest.param(
            ordinary(20).repeat(50, axis=0) + 0.02 * ordinary(1000, 6), 400, id="frames of twenty scenes"
        ),
        pytest.param(np.abs(ordinary(1000)) + 0.7, 50, id="one corner of the space, one class"),
    ],
)
def test_repeats_copies_and_narrow_traffic_count_for_little(inputs: Any, most: float) -> None:
    assert held_after(key_batch(SWEEP, inputs)) < most


def test_a_key_is_told_of_once_before_it_holds_all_and_never_above_a_notice() -> None:
    found = alerts_of(key_batch(SWEEP, ordinary(2600)))
    assert len(found) == 1
    alert = found[0]
    assert 1800 <= alert.query_count < NEEDED_QUERIES
    assert (alert.level, alert.families) == ("notice", ("budget",))
    assert alert.extraction is not None
    assert alert.extraction.held_ratio == pytest.approx(0.9, abs=0.01)
    assert alert.key_p_value == alert.extraction.honest_share == pytest.approx(1 / 81)
    assert "90% of the queries that a copy of toy needs" in alert.sentence
    assert "honest use looks the same" in alert.sentence


def test_it_does_not_depend_on_the_cut_and_survives_a_restart() -> None:
    batch = interleave([key_batch(SWEEP, ordinary(2000)), *(honest(n, 50) for n in range(200, 210))])
    whole, cut = (Engine(EngineSettings(), {MODEL: reference()}) for _ in range(2))
    expected = [a.alert_id for a in whole.process(batch) if is_budget_alert(a)]
    found = []
    for start in range(0, len(batch), 173):
        found += [a for a in cut.process(batch.take(slice(start, start + 173))) if is_budget_alert(a)]
        cut.restore(cut.dump())
    assert [alert.alert_id for alert in found] == expected != []
    assert cut.dump() == whole.dump()


def test_a_model_whose_honest_keys_hold_a_copy_tells_only_of_those_that_hold_more() -> None:
    usual = replace(extraction(), held=np.linspace(0, 4000, 80, dtype=np.float32))
    batch = key_batch(SWEEP, ordinary(4500))
    assert alerts_of(batch, extraction=usual)[0].query_count > 3500


def test_without_labels_nothing_is_said() -> None:
    silent = replace(extraction(), label_nats=np.zeros(1, np.float32))
    assert alerts_of(key_batch(SWEEP, ordinary(2200)), extraction=silent) == []
    assert alerts_of(key_batch(SWEEP, ordinary(2200)), extraction=None) == []


def test_a_forgiven_key_is_not_told_of() -> None:
    engine = Engine(EngineSettings(), {MODEL: reference()})
    batch = key_batch(SWEEP, ordinary(2200))
    engine.forgive(format_key_reference(0, SWEEP, SWEEP + 1), MODEL)
    assert not any(is_budget_alert(alert) for alert in engine.process(batch))


def test_what_a_key_holds_survives_eviction() -> None:
    engine = Engine(EngineSettings(hot_keys=8), {MODEL: reference()})
    inputs = ordinary(2600)
    found = engine.process(key_batch(SWEEP, inputs[:1500]))
    for number in range(8):
        engine.process(key_batch(number, honest(number).input_sketch[:5], start_ms=10_000_000))
    assert engine.summary(format_key_reference(0, SWEEP, SWEEP + 1), MODEL) is None
    found += engine.process(key_batch(SWEEP, inputs[1500:], start_ms=20_000_000))
    told = [alert for alert in found if is_budget_alert(alert)]
    assert 1800 <= told[0].query_count < 2200


def test_a_cold_start_learns_what_is_ordinary() -> None:
    engine = Engine(EngineSettings(), {})
    engine.process(interleave([honest(n, count=200) for n in range(60)]))
    found = engine.process(key_batch(SWEEP, ordinary(2600), start_ms=10_000_000))
    assert any(is_budget_alert(alert) for alert in found)


def test_the_reference_keeps_it() -> None:
    again = ModelReference.load(reference().dump())
    assert again.version == reference().version
    assert again.extraction is not None
    np.testing.assert_array_equal(again.extraction.held, extraction().held)


@settings(max_examples=60, deadline=None)
@given(st.floats(1, 256), st.floats(1, 300), st.floats(0, 2.1), st.floats(0, 1), st.integers(1, 10**6))
def test_parts_equal_their_plain_definition(
    cells: float, repeats: float, nats: float, weight: float, events: int
) -> None:
    repeats = min(repeats, float(events))
    row = np.array([[cells, repeats, nats, weight * events, events]], np.float32)
    own = extraction()
    held, distinct, *ratios = Budget(own).parts(row)[0].tolist()
    expected = np.interp(4 * log2(events / repeats), np.arange(len(own.cells)), own.cells)
    plain = [cells / expected, nats / own.label_nats[0], weight / (0.5 * own.fresh[0])]
    assert distinct == pytest.approx(events / repeats, rel=1e-5)
    assert ratios == pytest.approx([min(ratio, 1) for ratio in plain], rel=1e-4)
    assert held == pytest.approx(distinct * min(ratios), rel=1e-5)


def test_a_row_without_a_sketch_says_nothing() -> None:
    row = np.full((1, 5), np.nan, np.float32)
    assert np.isnan(Budget(extraction()).parts(row)).all()
    assert len(PARTS) == Budget(extraction()).parts(row).shape[1]


def test_expected_cells_are_those_that_random_queries_reach() -> None:
    event = reference().event
    sketch = np.concatenate([honest(n).input_sketch for n in range(80)])
    own = fit_extraction(event, sketch, np.ones(1), np.ones((1, 2), np.float32), np.empty(0, np.float32))
    rng = np.random.default_rng(3)
    for queries in (8, 128, 1024):
        reached = []
        for _ in range(20):
            batch = key_batch(1, sketch[rng.integers(0, len(sketch), queries)])
            slabs = make_slabs(Coverage.fields, 1)
            score(Coverage(event), batch, np.zeros(queries, np.int64), slabs)
            reached.append(int(slabs["cell_count"][0]))
        expected = float(own.cells[int(4 * np.log2(queries))])
        assert np.mean(reached) == pytest.approx(expected, abs=4 * float(np.std(reached)) / sqrt(20) + 0.5)


def test_repeats_are_the_mean_count_of_a_distinct_query() -> None:
    rng = np.random.default_rng(11)
    pool = rng.standard_normal((400, 32))
    errors = []
    for seed in range(40):
        times = np.random.default_rng(seed).geometric(0.5, 400)
        inputs = np.random.default_rng(seed).permutation(pool.repeat(times, axis=0)) + seed
        slabs = make_slabs(Coverage.fields, 1)
        signal, slots = Coverage(reference().event), np.zeros(len(inputs), np.int64)
        scores = score(signal, key_batch(1, inputs), slots, slabs)
        errors.append(float(scores[-1, 1]) - times.mean())
    assert abs(np.mean(errors)) < 4 * np.std(errors) / sqrt(40)
    assert np.std(errors) < 3 * sqrt(2 / 8)


def test_label_entropies_agree_between_the_signal_and_the_learner() -> None:
    batch = honest(3)
    slabs = make_slabs(Coverage.fields, 1)
    scores = score(Coverage(reference().event), batch, np.zeros(len(batch), np.int64), slabs)
    assert label_nats(slabs["label_count"])[0] == pytest.approx(float(scores[-1, 2]), abs=1e-5)
    assert label_nats(np.zeros((1, 8), np.uint16))[0] == 0


def test_agreement_grows_along_the_measured_curves() -> None:
    assert copy_agreement(2000) == (0.930, 0.962)
    assert copy_agreement(0) == (0.765, 0.928)
    lows, highs = zip(*(copy_agreement(n) for n in (100, 300, 1000, 3000, 10_000)), strict=True)
    assert list(lows) == sorted(lows)
    assert list(highs) == sorted(highs)
    assert all(list(curve) == sorted(curve) for curve in CURVES)


@pytest.mark.parametrize(
    ("held", "elapsed_ms", "words"),
    [
        (820.0, 3_600_000, "41% of the queries that a copy of digits needs"),
        (820.0, 3_600_000, "(820 of 2,000); at this pace all of them in 1 h 26 min. Measured copies"),
        (1900.0, 60_000, "at this pace all of them in 1 min."),
        (20.0, 7 * 86_400_000, "at this pace all of them in 693 days."),
        (3000.0, 60_000, "by our measurements (3,000 of 2,000). Measured copies"),
    ],
)
def test_it_is_told_in_plain_words(held: float, elapsed_ms: int, words: str) -> None:
    slabs = make_slabs({"first_ms": ("i8", ()), "held": ("f4", ()), "told": ("u1", ())}, 1)
    spread = np.array([[256, 1, 9, held, held]], np.float32)
    account = Budget(extraction()).process(spread, np.array([elapsed_ms]), np.zeros(1, np.int64), slabs)
    told = account.describe(0)
    assert told is not None
    assert isfinite(told.held_per_hour)
    assert words in tell(told, "digits")


def test_events_without_classes_leave_the_account_empty() -> None:
    batch = key_batch(SWEEP, ordinary(50))
    bare = build_batch(
        key=batch.key, time_ms=batch.time_ms, model=batch.model, models=batch.models, topic=batch.topic,
        offset=batch.offset, input_sketch=batch.input_sketch,
    )  # fmt: skip
    assert held_after(bare) == 0
