"""Learning a model's reference from its own live traffic, attackers included.

Learned at every doubling of the model's event count: events first, then how far keys differ, then how far
they get in their lives. The rows of honest keys of other models are borrowed (`detectors.lesson`), so that a
watch begins with the first events that are known, and young keys do not say how far old ones may get. Likely
attackers are left out: keys that a person called guilty, and the oddest of those that were alerted, as far as
`CONTAMINATION_RATIO` goes; some of the rest are taken to be attackers whose values say nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from detectors.arrays import named
from detectors.budget import fit_extraction
from detectors.calibration import (
    Sample,
    Spread,
    fit_events,
    fit_spread,
    fit_tails,
    join_samples,
    make_key_reference,
    sample_rows,
    take_rows,
    z_values,
)
from detectors.keylevel import note_peaks
from detectors.lesson import is_settled, join_lessons, make_lesson, settled_keys, thin
from detectors.reference import (
    EventReference,
    ExtractionReference,
    KeyReference,
    Lesson,
    ModelReference,
    as_arrays,
)
from detectors.signals.coverage import label_nats
from detectors.statistics import GROUP_OF
from detectors.track import MEAN_FIELDS, Track
from detectors.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from detectors.attention import Part
    from detectors.base import Slabs
    from detectors.modelrows import ModelRows
    from detectors.watch import Watched

FIRST_FIT_EVENTS = 1000
"""Events of the model before anything is learned."""
LEAST_KEYS = 20
"""Keys without which a fit waits for the next doubling."""
EVENTS_OF_KEY = 32
"""A key's first events that are sampled."""
SAMPLE_ROWS = 8192
"""Events sampled, the latest."""
CONTAMINATION_RATIO = 0.07
"""Share of the keys that may be attackers, and most that are left out."""
PEELED_LEVEL = 1
"""Keys that reached this level are not learned from, the oddest first. Peeling at warnings alone missed
attacks among the first customers, peeling up to a tenth of the keys doubled false alarms."""
RESIDUAL_RATIO = 0.02
"""Share of the keys that may be attackers once those are left out that were alerted."""
UNJUDGED, HONEST, GUILTY = 0, 1, 2
"""What a person said of a key (slab `verdict`)."""
BORROWED_KEYS = 100
"""Keys of other models that are learned from beside the model's own, at most: they decide at first, little
later. Half as many gave twice the false alarms on the first day."""
LIVE_KEYS_COUNT = 4
"""So many keys learned from live traffic count as one that is known to be honest (`EXTRAPOLATION_LIMIT`)."""
TRIM_RATIO = 0.1
"""Share of the sampled events that may be theirs."""
EVENT_FITS_EVERY = 2
"""The event level is learned again at every so many doublings."""


def borrow(references: Mapping[str, ModelReference], model: str) -> Lesson | None:
    """Return what is known of honest keys of other models than this one; None if nothing is."""
    others = (reference for name, reference in sorted(references.items()) if name != model)
    lessons = [thin(r.lesson, 0, BORROWED_KEYS) for r in others if r.lesson is not None]
    return join_lessons(lessons) if lessons else None


class Learner:
    """A model without a reference: learns one, then watches with it.

    Attributes
    ----------
    fits : int
        Doublings of the event count at which something was learned.
    """

    def __init__(self, model: str, borrowed: Lesson | None = None) -> None:
        """Start with nothing of the model's own, and what is known of honest keys of other models, if any."""
        self.model = model
        self._borrowed = None if borrowed is None else thin(borrowed, key_rows=BORROWED_KEYS)
        self.seen = 0
        self.next_fit = FIRST_FIT_EVENTS
        self.fits = 0
        self.sample: Sample | None = None
        self.event: EventReference | None = None
        self.spread: Spread | None = None
        self.extraction: ExtractionReference | None = None
        self.watch: Watch | None = None
        self._track: Track | None = None

    @property
    def until_next_fit(self) -> int:
        """Events that may be processed before `fit` must be called."""
        return self.next_fit - self.seen

    @property
    def current(self) -> Watch:
        """What an alert was compared with.

        Raises
        ------
        ValueError
            If nothing is watched yet; no alert can have been made then.
        """
        if self.watch is None:
            raise ValueError(f"model {self.model} is still learning")
        return self.watch

    def process(self, piece: ModelRows, slabs: Slabs, part: Part) -> Watched | None:
        """Follow at most `until_next_fit` rows. None while learning.

        What is watched is the part; what is learned from, all.
        """
        real = piece.of_customers()
        self.seen += len(real.rows)
        self._collect(real)
        if self.watch is not None:
            return self.watch.process(piece, slabs, part)
        if self._track is not None:
            progress = self._track.advance(piece.batch, piece.rows, piece.slots, slabs)
            if self.spread is not None:
                note_peaks(z_values(progress, self.spread), piece.slots, slabs["z_peak"])
        return None

    def fit(self, slabs: Slabs, members: NDArray[np.int64]) -> None:
        """Learn what the stage allows, from the sampled events and the slabs of the model's keys (slots)."""
        self.next_fit *= 2
        if len(members) < LEAST_KEYS or self.sample is None:
            return
        first, learn_tails = self.event is None, self.spread is not None or self._borrowed is not None
        if first:
            self.learn_events()
        if self.event is not None and (not first or self._borrowed is not None):
            members, attacker_ratio = _peel(slabs["level"], slabs["verdict"], members)
            lesson = self._lesson(slabs, members[:0] if first else members, attacker_ratio)
            known = lesson if self._borrowed is None else join_lessons([lesson, self._borrowed])
            self.spread = fit_spread(as_arrays(known), attacker_ratio)
            if learn_tails:
                tails = fit_tails(known.z_peak[settled_keys(known)], GROUP_OF, attacker_ratio)
                self.extraction = self._fit_extraction(lesson)
                own = max(int(is_settled(lesson).sum()) // LIVE_KEYS_COUNT, 1)
                self._watch(make_key_reference(self.spread, tails, own), lesson)
        if not first and self.fits % EVENT_FITS_EVERY == 0:
            self.learn_events()
        self.fits += 1

    def _lesson(self, slabs: Slabs, members: NDArray[np.int64], attacker_ratio: float) -> Lesson:
        names = (*MEAN_FIELDS, "z_peak", "fresh", "held")
        rows = {name: slabs[name][members] for name in names}
        rows["label_nats"] = label_nats(slabs["label_count"][members])
        return make_lesson([self.sample] if self.sample else [], rows, attacker_ratio)

    def learn_events(self) -> None:
        """Learn the event level from the sample, unless no event carries a sketch."""
        sample = self.sample
        if sample is None or not np.isfinite(sample.input_sketch).any():
            return
        event = fit_events(sample, TRIM_RATIO)
        if self.event is not None:
            kept = self.event
            event = replace(event, pair_distance=kept.pair_distance, ring_centre=kept.ring_centre)
        self.event = event
        self._track = Track(self.event)
        if self.watch is not None:
            self._watch(self.watch.reference.key, self.watch.reference.lesson)

    def _watch(self, key: KeyReference, lesson: Lesson | None) -> None:
        if self.event is not None:
            reference = ModelReference(self.model, self.event, key, extraction=self.extraction, lesson=lesson)
            self.watch = Watch(reference)

    def _fit_extraction(self, lesson: Lesson) -> ExtractionReference | None:
        if self.event is None or self.sample is None:
            return None
        sketch = self.sample.input_sketch
        return fit_extraction(self.event, sketch, lesson.label_nats, lesson.fresh, lesson.held)

    def _collect(self, piece: ModelRows) -> None:
        rows = piece.rows[piece.number <= EVENTS_OF_KEY]
        if not len(rows):
            return
        fresh = sample_rows(piece.batch, rows)
        joined = fresh if self.sample is None else join_samples([self.sample, fresh])
        self.sample = take_rows(joined, slice(-SAMPLE_ROWS, None))

    def dump(self) -> tuple[dict[str, NDArray[Any]], dict[str, int]]:
        """Return the state as arrays and numbers."""
        arrays: dict[str, NDArray[Any]] = {}
        if self.sample is not None:
            arrays |= {f"sample.{name}": column for name, column in self.sample._asdict().items()}
        if self.event is not None:
            arrays |= {f"event.{name}": array for name, array in as_arrays(self.event).items()}
        if self.spread is not None:
            arrays |= {f"spread.{name}": column for name, column in self.spread._asdict().items()}
        if self.extraction is not None:
            arrays |= {f"extraction.{name}": array for name, array in as_arrays(self.extraction).items()}
        if self.watch is not None:
            arrays |= {f"key.{name}": array for name, array in as_arrays(self.watch.reference.key).items()}
            lesson = self.watch.reference.lesson
            arrays |= {} if lesson is None else {f"lesson.{n}": a for n, a in as_arrays(lesson).items()}
        return arrays, {"seen": self.seen, "next_fit": self.next_fit, "fits": self.fits}

    def restore(self, arrays: Mapping[str, NDArray[Any]], numbers: Mapping[str, int]) -> None:
        """Replace the state by a dump.

        Raises
        ------
        KeyError, TypeError
            If something is missing from it.
        """
        self.seen, self.next_fit, self.fits = numbers["seen"], numbers["next_fit"], numbers["fits"]
        parts = {
            name: named(arrays, name) for name in ("sample", "event", "spread", "extraction", "key", "lesson")
        }
        self.sample = Sample(**parts["sample"]) if parts["sample"] else None
        self.spread = Spread(**parts["spread"]) if parts["spread"] else None
        if parts["extraction"]:
            self.extraction = ExtractionReference(**parts["extraction"])
        if parts["event"]:
            self.event = EventReference(**parts["event"])
            self._track = Track(self.event)
        if parts["key"]:
            lesson = Lesson(**parts["lesson"]) if parts["lesson"] else None
            self._watch(KeyReference(**parts["key"]), lesson)


def _peel(
    level: NDArray[np.uint8], verdict: NDArray[np.uint8], members: NDArray[np.int64]
) -> tuple[NDArray[np.int64], float]:
    """Leave out likely attackers; return who stays, and the share of those that may still be attackers.

    A person's word counts first: who was called guilty is never learned from, who was called honest always.
    Beyond that, keys that were warned of go, the oddest first, as far as attackers are expected.
    """
    said, reached = verdict[members], level[members].astype(int)
    suspects = np.flatnonzero((reached >= PEELED_LEVEL) & (said == UNJUDGED))
    most = int(CONTAMINATION_RATIO * len(members))
    suspects = suspects[np.argsort(-reached[suspects], kind="stable")[:most]]
    left = CONTAMINATION_RATIO - len(suspects) / len(members)
    gone = np.concatenate([suspects, np.flatnonzero(said == GUILTY)])
    return np.delete(members, gone), max(left, RESIDUAL_RATIO)
