"""Merging references: what several workers learned from their partitions, as one would have from all.

A merged reference is exact up to the bounds of a lesson (`detectors.lesson`): a sample of the events, and
peaks that are standardised again by the joint spread; how familiar a key's inputs were stays measured against
what its own part remembered. It travels on the compacted `reference` topic.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from detectors.budget import fit_extraction
from detectors.calibration import (
    Sample,
    fit_events,
    fit_key_events,
    fit_spread,
    fit_tails,
    make_key_reference,
    take_rows,
)
from detectors.lesson import join_lessons, settled_keys
from detectors.reference import ModelReference, as_arrays
from detectors.statistics import GROUP_OF, HORIZONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from detectors.calibration import Spread
    from detectors.reference import EventReference, KeyReference, Lesson


class LessonError(ValueError):
    """References cannot be merged: none, of different models, or without a lesson. The message says which."""


def merge_references(
    references: Sequence[ModelReference],
    ring: EventReference | None = None,
    borrowed: Lesson | None = None,
) -> ModelReference:
    """Return what would have been learned from all that the references were learned from.

    Parameters
    ----------
    references
        Of one model, each with its lesson, from different keys.
    ring
        The event level whose `ring_centre` and `pair_distance` are kept, for keys that remember sketches by
        them; the first reference's if not given.
    borrowed
        What is known of honest keys of other models. As in learning from live traffic, they help to say how
        keys differ and how far they get.

    Raises
    ------
    LessonError
        If there is no reference, they are of different models, or one has no lesson.
    """
    models = sorted({reference.model for reference in references})
    if len(models) != 1:
        raise LessonError(f"references of one model can be merged, these are of {models}")
    lessons = [_with_peaks_of_means(reference) for reference in references]
    joined = join_lessons(lessons)
    kept = ring or references[0].event
    event = replace(_learn_events(joined), ring_centre=kept.ring_centre, pair_distance=kept.pair_distance)
    attacker_ratio = float(joined.attacker_ratio[0])
    others = [] if borrowed is None else [borrowed]
    spread = fit_spread(as_arrays(join_lessons([joined, *others])), attacker_ratio)
    lesson = replace(joined, z_peak=_standardised(joined.z_peak, spread))
    known = join_lessons([lesson, *others])
    tails = fit_tails(known.z_peak[settled_keys(known)], GROUP_OF, attacker_ratio)
    key_count = sum(int(reference.key.key_count[0]) for reference in references)
    return ModelReference(
        model=models[0],
        event=event,
        key=make_key_reference(spread, tails, key_count),
        river=next((reference.river for reference in references if reference.river is not None), None),
        extraction=fit_extraction(
            event, lesson.input_sketch.astype(np.float32), lesson.label_nats, lesson.fresh, lesson.held
        ),
        alarm=next((reference.alarm for reference in references if reference.alarm is not None), None),
        lesson=lesson,
    )


def dump_to_merge(reference: ModelReference) -> bytes:
    """Write a reference without what merging learns anew, so that it fits into a message."""
    known = reference.event
    event = replace(
        known,
        familiar_points=known.familiar_points[:, :0],
        familiar_start=np.zeros_like(known.familiar_start),
    )
    return replace(reference, event=event).dump()


def _learn_events(lesson: Lesson) -> EventReference:
    """Learn the event level from a lesson, and familiar inputs too where its keys were told apart."""
    sample = Sample(
        lesson.input_sketch.astype(np.float32),
        lesson.embedding_sketch.astype(np.float32),
        lesson.predicted_class,
        lesson.margin.astype(np.float32),
    )
    if not len(lesson.owner) or lesson.owner.min() < 0:
        return fit_events(sample)
    owners = [np.flatnonzero(lesson.owner == owner) for owner in np.unique(lesson.owner)]
    return fit_key_events([take_rows(sample, rows) for rows in owners])


def _with_peaks_of_means(reference: ModelReference) -> Lesson:
    """Return a reference's lesson with its peaks as means, which other references can standardise."""
    if reference.lesson is None:
        raise LessonError(f"a reference of model {reference.model} carries no lesson; learn it again")
    deviation = _deviation(reference.key)
    return replace(reference.lesson, z_peak=reference.key.mean + reference.lesson.z_peak * deviation)


def _standardised(peak: NDArray[np.float32], spread: Spread) -> NDArray[np.float32]:
    deviation = np.sqrt(spread.between + spread.within / HORIZONS)
    standardised: NDArray[np.float32] = ((peak - spread.mean) / deviation).astype(np.float32)
    return standardised


def _deviation(key: KeyReference) -> NDArray[np.float32]:
    """Return the standard deviation of means over a full horizon."""
    deviation: NDArray[np.float32] = np.sqrt(key.between_variance + key.within_variance / HORIZONS)
    return deviation
