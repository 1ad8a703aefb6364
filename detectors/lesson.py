"""Lessons: the bounded record of what a reference was learned from.

With them references can be merged (`detectors.merging`), and a model without customers yet can borrow the
rows of other models' keys: how far honest keys differ carries over between models much better than what their
inputs look like.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from detectors.reference import Lesson

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from detectors.calibration import Sample

EVENT_ROWS = 2048
"""Most events in a lesson; about 135 B each."""
KEY_ROWS = 1024
"""Most keys in a lesson; about 250 B each."""
SETTLED_QUERIES = 32
"""A younger key says nothing of how far honest keys get in their lives."""
LEAST_SETTLED_KEYS = 20
EVENT_COLUMNS = ("input_sketch", "embedding_sketch", "predicted_class", "margin", "owner")
KEY_COLUMNS = (
    *("value_mass", "value_mean", "value_square", "z_peak"),
    *("fresh", "held", "label_nats"),
)


def make_lesson(samples: Sequence[Sample], keys: Mapping[str, NDArray[Any]], attacker_ratio: float) -> Lesson:
    """Put a lesson together from the events of each key, and the rows of the keys (`KEY_COLUMNS`).

    One sample alone is of keys that were not told apart.
    """
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(s, name) for s in samples]) for name in EVENT_COLUMNS[:-1]
    }
    owner = np.repeat(np.arange(len(samples)), [len(s.margin) for s in samples])
    rows: dict[str, Any] = {name: keys[name].astype(np.float32) for name in KEY_COLUMNS}
    lesson = Lesson(
        input_sketch=joined["input_sketch"].astype(np.float16),
        embedding_sketch=joined["embedding_sketch"].astype(np.float16),
        predicted_class=joined["predicted_class"].astype(np.int32),
        margin=joined["margin"].astype(np.float16),
        owner=(owner if len(samples) > 1 else np.full(len(owner), -1)).astype(np.int32),
        **rows,
        attacker_ratio=np.array([attacker_ratio], np.float32),
    )
    return thin(lesson)


def thin(lesson: Lesson, event_rows: int = EVENT_ROWS, key_rows: int = KEY_ROWS) -> Lesson:
    """Return at most so many events and keys, evenly chosen in order."""
    chosen: dict[str, Any] = {}
    for names, most in ((EVENT_COLUMNS, event_rows), (KEY_COLUMNS, key_rows)):
        count = len(getattr(lesson, names[0]))
        rows = np.linspace(0, count - 1, min(count, most)).astype(np.int64)
        chosen |= {name: getattr(lesson, name)[rows] for name in names}
    return replace(lesson, **chosen)


def join_lessons(lessons: Sequence[Lesson]) -> Lesson:
    """Join lessons in order; their keys are different ones. At most so many rows as a lesson may have."""
    owners, first = [], 0
    for lesson in lessons:
        owners.append(np.where(lesson.owner >= 0, lesson.owner + first, -1).astype(np.int32))
        first += int(lesson.owner.max(initial=-1)) + 1
    columns = {
        name: np.concatenate([getattr(lesson, name) for lesson in lessons])
        for name in (*EVENT_COLUMNS, *KEY_COLUMNS)
    }
    weights = [max(len(lesson.held), 1) for lesson in lessons]
    ratio = np.average([float(lesson.attacker_ratio[0]) for lesson in lessons], weights=weights)
    columns |= {"owner": np.concatenate(owners), "attacker_ratio": np.array([ratio], np.float32)}
    return thin(Lesson(**columns))


def is_settled(lesson: Lesson) -> NDArray[np.bool_]:
    """Tell which keys (K,) are old enough to say how far honest keys get in their lives."""
    settled: NDArray[np.bool_] = lesson.value_mass.max(axis=1) >= SETTLED_QUERIES
    return settled


def settled_keys(lesson: Lesson) -> NDArray[np.bool_]:
    """Mark the keys to learn lifetime tails from: the settled ones, or all if those are too few."""
    settled = is_settled(lesson)
    return settled if settled.sum() >= LEAST_SETTLED_KEYS else np.ones_like(settled)
