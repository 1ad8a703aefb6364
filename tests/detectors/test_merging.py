"""Merging references equals learning from all keys at once, within the tolerance of a sample."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from traffic import MODEL, far_away, honest

from detectors.calibration import fit_reference
from detectors.engine import Engine, EngineSettings
from detectors.lesson import EVENT_ROWS, KEY_ROWS, join_lessons, thin
from detectors.merging import LessonError, merge_references
from detectors.reference import STATISTIC_NAMES, ModelReference

if TYPE_CHECKING:
    from detectors.batch import EventBatch

HONEST = [honest(n, count=120) for n in range(60)]
WHOLE = fit_reference(MODEL, HONEST)
PARTS = [fit_reference(MODEL, HONEST[start::2]) for start in (0, 1)]


def first_alert(reference: ModelReference, batch: EventBatch) -> int | None:
    """Return the query at which a key by itself is first alerted."""
    alerts = Engine(EngineSettings(), {MODEL: reference}).process(batch)
    return alerts[0].query_count if alerts else None


def test_a_merged_reference_is_that_of_the_union() -> None:
    merged = merge_references(PARTS)
    deviation = np.sqrt(WHOLE.key.between_variance + WHOLE.key.within_variance / 16)
    assert merged.key.key_count == WHOLE.key.key_count
    # How familiar inputs are is measured against the inputs that a part remembers, which the others lack.
    same = np.array([name != "unfamiliar_1" for name in STATISTIC_NAMES])
    assert np.all(np.abs(merged.key.mean - WHOLE.key.mean)[same] < 0.2 * deviation[same])
    np.testing.assert_allclose(merged.event.input_centres, WHOLE.event.input_centres, atol=0.15)


def test_a_merged_reference_judges_as_the_union_does() -> None:
    """An honest key stays quiet, an attack is found, at nearly the same query."""
    merged = merge_references(PARTS)
    whole, parts = (first_alert(reference, far_away(900)) for reference in (WHOLE, merged))
    assert whole is not None
    assert parts is not None
    assert abs(whole - parts) <= 4
    quiet = [honest(n, count=120) for n in range(700, 720)]
    assert sum(first_alert(merged, batch) is not None for batch in quiet) <= 1


def test_merging_is_commutative_up_to_the_ring() -> None:
    forth, back = merge_references(PARTS), merge_references(PARTS[::-1], ring=PARTS[0].event)
    np.testing.assert_allclose(forth.key.mean, back.key.mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(forth.key.tail_knots, back.key.tail_knots, rtol=0.2, atol=0.5)


def test_the_ring_of_remembered_sketches_is_kept() -> None:
    kept = merge_references(PARTS, ring=PARTS[1].event).event
    assert kept.ring_centre.tobytes() == PARTS[1].event.ring_centre.tobytes()
    assert kept.pair_distance.tobytes() == PARTS[1].event.pair_distance.tobytes()


def test_a_merged_reference_survives_the_topic() -> None:
    merged = merge_references(PARTS)
    assert ModelReference.load(merged.dump()).version == merged.version


def test_lessons_are_bounded() -> None:
    lesson = PARTS[0].lesson
    assert lesson is not None
    grown = join_lessons([lesson] * 40)
    assert len(grown.margin) <= EVENT_ROWS
    assert len(grown.held) <= KEY_ROWS
    assert len(thin(lesson, 0, 5).margin) == 0
    assert len(thin(lesson, 0, 5).held) == 5


def test_references_that_cannot_be_merged_say_why() -> None:
    with pytest.raises(LessonError, match="one model"):
        merge_references([PARTS[0], replace(PARTS[1], model="other")])
    with pytest.raises(LessonError, match="one model"):
        merge_references([])
    with pytest.raises(LessonError, match="no lesson"):
        merge_references([replace(PARTS[0], lesson=None)])
