"""From events to running means: the signals of one model, their values, and the slabs they keep.

Used by `detectors.engine` on live batches and by `detectors.calibration` on benign keys, so that what is
compared was measured in the same way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from detectors.budget import SPREAD_FIELDS, follow_spread
from detectors.evidence import evidence_fields, update
from detectors.secondopinion import FEATURES
from detectors.signals import ALL_SIGNALS
from detectors.statistics import (
    BETS,
    HORIZONS,
    SCORES,
    STATISTICS,
    VALUE_OF,
    VALUES,
    WEIGHTED,
    WEIGHTED_VALUE,
    event_values,
    update_means,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detectors.base import Fields, Slabs
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


_FEATURES = [SCORES.index(name) for name in FEATURES]


class Progress(NamedTuple):
    """Where each row's key stands after the row, n rows.

    Attributes
    ----------
    mean, mass : float32 (n, S)
        The running means, and the mass each rests on.
    e_detector : float32 (n, len(BETS))
        log10 of the Shiryaev-Roberts e-detectors; NaN while nothing was bet.
    features : float32 (n, len(FEATURES))
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
        self._reference = reference
        self._signals = [make(reference) for make in ALL_SIGNALS.values()]

    def advance(self, batch: EventBatch, slots: NDArray[np.int64], slabs: Slabs) -> Progress:
        """Score every row, in order, and update its key's slabs."""
        scores = np.concatenate([signal.score(batch, slots, slabs) for signal in self._signals], axis=1)
        values, weight, bets = event_values(scores, self._reference)
        mean, mass = (np.empty((len(batch), len(STATISTICS)), np.float32) for _ in range(2))
        update_means(
            values, weight, slots, *(slabs[name] for name in MEAN_FIELDS),
            VALUE_OF, HORIZONS, WEIGHTED, WEIGHTED_VALUE, mean, mass,
        )  # fmt: skip
        features = scores[:, _FEATURES]
        spread = follow_spread(scores, weight, slots, slabs)
        return Progress(mean, mass, update(bets, slots, slabs["evidence"]), features, spread)
