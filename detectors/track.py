"""From events to running means: the signals of one model, their values, and the slabs they keep.

Used by `detectors.engine` on live batches and by `detectors.calibration` on benign keys, so that what is
compared was measured in the same way.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from detectors.base import Events
from detectors.budget import SPREAD_COLUMNS, SPREAD_FIELDS, follow_spread
from detectors.evidence import evidence_fields, write_evidence
from detectors.kernelcache import njit
from detectors.secondopinion import FEATURES
from detectors.signals import ALL_SIGNALS
from detectors.signals.boundary import score_margins
from detectors.signals.coverage import score_coverage
from detectors.signals.familiarity import score_familiarity
from detectors.signals.near_duplicate import score_near_duplicates
from detectors.signals.out_of_distribution import score_distances
from detectors.signals.rate import score_rates
from detectors.signals.request_parameters import score_requests
from detectors.statistics import (
    BETS,
    HORIZONS,
    SCORES,
    STATISTICS,
    VALUE_OF,
    VALUES,
    WEIGHTED,
    WEIGHTED_VALUE,
    update_means,
    value_tables,
    write_values,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detectors.attention import Part
    from detectors.base import Array, Fields, Slabs
    from detectors.batch import EventBatch
    from detectors.reference import EventReference

MEAN_FIELDS: Fields = {
    "mean": ("f4", (len(STATISTICS),)),
    "mass": ("f4", (len(STATISTICS),)),
    "value_mass": ("f4", (len(VALUES),)),
    "value_mean": ("f4", (len(VALUES),)),
    "value_square": ("f4", (len(VALUES),)),
}
"""Running means and the mass each rests on; per value its mass, lifetime mean, summed squared deviations."""

TRACK_FIELDS: Fields = {
    **MEAN_FIELDS,
    **evidence_fields(len(BETS)),
    **SPREAD_FIELDS,
    **{name: spec for signal in ALL_SIGNALS.values() for name, spec in signal.fields.items()},
}

_FEATURES = tuple(SCORES.index(name) for name in FEATURES)
_EDGES = (0, *accumulate(len(signal.scores) for signal in ALL_SIGNALS.values()))
"""Where each signal's columns begin among the scores."""


class Progress(NamedTuple):
    """Where each row's key stands after the row, m rows that are looked at of n.

    Attributes
    ----------
    mean, mass : float32 (m, S)
        The running means, and the mass each rests on.
    e_detector : float32 (m, len(BETS))
        The Shiryaev-Roberts e-detectors; NaN while nothing was bet.
    features : float32 (m, len(FEATURES))
        Scores that River's forests see together.
    spread : float32 (n, 5)
        What the extraction budget is accounted from (`detectors.budget.follow_spread`).
    """

    mean: NDArray[np.float32]
    mass: NDArray[np.float32]
    e_detector: NDArray[np.float32]
    features: NDArray[np.float32]
    spread: NDArray[np.float32]


class Track:
    """The signals of one model."""

    def __init__(self, reference: EventReference) -> None:
        """Compare with this event reference."""
        self._signals = [make(reference) for make in ALL_SIGNALS.values()]
        self._tables = value_tables(reference)

    def advance(
        self,
        batch: EventBatch,
        rows: NDArray[np.int64],
        slots: NDArray[np.int64],
        slabs: Slabs,
        part: Part | None = None,
    ) -> Progress:
        """Score some rows of a batch, in order, and update the slabs of their keys.

        Those that are not in the part, if one is given, are only counted, by the signals that count all.
        """
        events, seen = Events.of(batch, rows), slots if part is None else part.slots
        looked = events if part is None else events._replace(rows=part.rows)
        places = np.arange(len(slots)) if part is None else part.places
        widths = len(STATISTICS), len(STATISTICS), len(BETS), len(FEATURES)
        mean, mass, e_detector, features = (np.empty((len(seen), width), np.float32) for width in widths)
        spread = np.empty((len(slots), SPREAD_COLUMNS), np.float32)
        progress = Progress(mean, mass, e_detector, features, spread)
        signals = tuple(
            [
                signal.arguments(events, slots, slabs)
                if signal.counts_all
                else signal.arguments(looked, seen, slabs)
                for signal in self._signals
            ]
        )
        means = tuple([slabs[name] for name in MEAN_FIELDS])
        kept = slabs["evidence"], slabs["fresh"]
        _advance(progress, slots, places, seen, signals, self._tables, means, *kept)
        return progress


@njit(cache=True, nogil=True)
def _advance(
    progress: Progress, every: Array, places: Array, slots: Array, signals: Any, tables: Any, means: Any,
    evidence: Array, fresh: Array,
) -> None:  # fmt: skip
    """Call the kernels one after the other: a call from Python takes as long as dozens of events.

    `every` are the slots of all rows, `slots` those of the `places` that are looked at.
    """
    count = len(slots)
    scores = np.full((count, _EDGES[-1]), np.nan, np.float32)
    rate = np.full((len(every), 1), np.nan, np.float32)
    coverage = np.full((len(every), SPREAD_COLUMNS - 2), np.nan, np.float32)
    score_distances(scores[:, _EDGES[0] : _EDGES[1]], *signals[0])
    score_near_duplicates(scores[:, _EDGES[1] : _EDGES[2]], *signals[1])
    score_margins(scores[:, _EDGES[2] : _EDGES[3]], *signals[2])
    score_rates(rate, *signals[3])
    score_coverage(coverage, *signals[4])
    score_familiarity(scores[:, _EDGES[5] : _EDGES[6]], *signals[5])
    score_requests(scores[:, _EDGES[6] : _EDGES[7]], *signals[6])
    for i in range(count):
        scores[i, _EDGES[3]] = rate[places[i], 0]
        scores[i, _EDGES[4] : _EDGES[5]] = coverage[places[i]]
    values, weight = np.empty((count, len(VALUES)), np.float32), np.empty(count, np.float32)
    bets = np.empty((count, len(BETS)), np.float32)
    write_values(values, weight, bets, scores, *tables)
    update_means(
        values, weight, slots, means[0], means[1], means[2], means[3], means[4],
        VALUE_OF, HORIZONS, WEIGHTED, WEIGHTED_VALUE, progress.mean, progress.mass,
    )  # fmt: skip
    write_evidence(progress.e_detector, bets, slots, evidence)
    follow_spread(progress.spread, coverage, places, weight, every, fresh)
    for i in range(count):
        for k in range(len(_FEATURES)):
            progress.features[i, k] = scores[i, _FEATURES[k]]
