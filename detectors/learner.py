"""Learning a model's reference from its own live traffic, attackers included.

Stages, each ending when the model's event count has doubled often enough: collect events; then with an event
level, follow the keys' means; then with their spread, follow the largest z-values; then watch, and learn
again at every doubling. A share of the keys is taken to be attackers whose values say nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from detectors.arrays import named
from detectors.batch import SYNTHETIC_EPOCH
from detectors.budget import fit_extraction
from detectors.calibration import (
    Sample,
    Spread,
    fit_events,
    fit_spread,
    fit_tails,
    join_samples,
    last_rows,
    make_key_reference,
    sample_rows,
    z_values,
)
from detectors.keylevel import note_peaks
from detectors.reference import EventReference, ExtractionReference, KeyReference, ModelReference, as_arrays
from detectors.signals.coverage import label_nats
from detectors.statistics import GROUP_OF
from detectors.track import MEAN_FIELDS, Track
from detectors.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from detectors.base import Slabs
    from detectors.batch import EventBatch
    from detectors.watch import Watched

FIRST_FIT_EVENTS = 1000
"""Events of the model before anything is learned."""
LEAST_KEYS = 20
"""Keys without which a fit waits for the next doubling."""
EVENTS_OF_KEY = 32
"""A key's first events that are sampled."""
SAMPLE_ROWS = 8192
"""Events sampled, the latest."""
CONTAMINATION_RATIO = 0.05
"""Share of the keys that may be attackers."""
TRIM_RATIO = 0.1
"""Share of the sampled events that may be theirs."""
EVENT_FITS_EVERY = 2
"""The event level is learned again at every so many doublings."""


class Learner:
    """A model without a reference: learns one, then watches with it.

    Attributes
    ----------
    fits : int
        Doublings of the event count at which something was learned.
    """

    def __init__(self, model: str) -> None:
        """Start with nothing."""
        self.model = model
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

    def process(
        self, batch: EventBatch, slots: NDArray[np.int64], slabs: Slabs, number: NDArray[np.int64]
    ) -> Watched | None:
        """Follow at most `until_next_fit` rows; `number` counts each key's events. None while learning."""
        self.seen += int(np.count_nonzero(batch.key_epoch != SYNTHETIC_EPOCH))
        self._collect(batch, number)
        if self.watch is not None:
            return self.watch.process(batch, slots, slabs, number)
        if self._track is not None:
            progress = self._track.advance(batch, slots, slabs)
            if self.spread is not None:
                note_peaks(z_values(progress, self.spread), slots, slabs["z_peak"])
        return None

    def fit(self, slabs: Slabs, members: NDArray[np.int64]) -> None:
        """Learn what the stage allows, from the sampled events and the slabs of the model's keys (slots)."""
        self.next_fit *= 2
        if len(members) < LEAST_KEYS or self.sample is None:
            return
        names = (*MEAN_FIELDS, "z_peak", "fresh", "held", "label_count")
        mine = {name: slabs[name][members] for name in names}
        if self.spread is not None:
            self.spread = fit_spread(mine, CONTAMINATION_RATIO)
            tails = fit_tails(mine["z_peak"], GROUP_OF, CONTAMINATION_RATIO)
            self.extraction = self._fit_extraction(mine)
            self._watch(make_key_reference(self.spread, tails, len(members)))
        elif self.event is not None:
            self.spread = fit_spread(mine, CONTAMINATION_RATIO)
        if self.fits % EVENT_FITS_EVERY == 0:
            self.learn_events()
        self.fits += 1

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
            self._watch(self.watch.reference.key)

    def _watch(self, key: KeyReference) -> None:
        if self.event is not None:
            reference = ModelReference(self.model, self.event, key, extraction=self.extraction)
            self.watch = Watch(reference)

    def _fit_extraction(self, mine: Mapping[str, NDArray[Any]]) -> ExtractionReference | None:
        if self.event is None or self.sample is None:
            return None
        nats = label_nats(mine["label_count"])
        return fit_extraction(self.event, self.sample.input_sketch, nats, mine["fresh"], mine["held"])

    def _collect(self, batch: EventBatch, number: NDArray[np.int64]) -> None:
        rows = np.flatnonzero((number <= EVENTS_OF_KEY) & (batch.key_epoch != SYNTHETIC_EPOCH))
        if not len(rows):
            return
        fresh = sample_rows(batch, rows)
        joined = fresh if self.sample is None else join_samples([self.sample, fresh])
        self.sample = last_rows(joined, SAMPLE_ROWS)

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
        return arrays, {"seen": self.seen, "next_fit": self.next_fit, "fits": self.fits}

    def restore(self, arrays: Mapping[str, NDArray[Any]], numbers: Mapping[str, int]) -> None:
        """Replace the state by a dump.

        Raises
        ------
        KeyError, TypeError
            If something is missing from it.
        """
        self.seen, self.next_fit, self.fits = numbers["seen"], numbers["next_fit"], numbers["fits"]
        parts = {name: named(arrays, name) for name in ("sample", "event", "spread", "extraction", "key")}
        self.sample = Sample(**parts["sample"]) if parts["sample"] else None
        self.spread = Spread(**parts["spread"]) if parts["spread"] else None
        if parts["extraction"]:
            self.extraction = ExtractionReference(**parts["extraction"])
        if parts["event"]:
            self.event = EventReference(**parts["event"])
            self._track = Track(self.event)
        if parts["key"]:
            self._watch(KeyReference(**parts["key"]))
