"""One model watched: from the rows of its events to the rows at which a key reaches a level.

Without a reference the watch first learns one from its own traffic (`detectors.learner`); it says nothing
until then. Used by `detectors.engine`, which owns the slabs.
"""

from __future__ import annotations

from math import log, nan
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from detectors.budget import BUDGET_FIELDS, Budget
from detectors.keylevel import judge, note_levels, prepare, standardise, surprises
from detectors.secondopinion import PROMOTION_E_VALUE, PROMOTION_SURPRISE
from detectors.statistics import FAMILIES, FAMILY_OF, GROUP_OF, HORIZONS, STATISTICS
from detectors.track import TRACK_FIELDS, Track

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detectors.alert import Extraction
    from detectors.attention import Part
    from detectors.base import Fields, Slabs
    from detectors.budget import Account, Crossed
    from detectors.modelrows import ModelRows
    from detectors.reference import KeyReference, ModelReference
    from detectors.track import Progress

BUDGETS = (1e-2, 1e-3, 1e-4)
"""Share of benign keys that reach notice, warning, critical in their lifetime (`detectors.alert.Level`)."""

EXTRAPOLATION_LIMIT = 200.0
"""A p-value is never said to be smaller than one over so many times the benign keys known: fifty keys are the
least for a critical level."""

THRESHOLDS = np.array([-log(budget) for budget in BUDGETS], np.float32)

AGAIN_MS = 900_000
"""A key that still stands at a level is told of again after so long: what was done about it may have ended,
and what was found must not be forgotten while it goes on."""

WATCH_FIELDS: Fields = {
    **TRACK_FIELDS,
    "z_peak": ("f4", (len(STATISTICS),)),
    "level": ("u1", ()),
    "level_told_ms": ("i8", ()),
    "promoted": ("u1", ()),
    "surprise_peak": ("f4", ()),
    **BUDGET_FIELDS,
}
"""Slabs of a watched key: its track, its largest z-values, the level it reached and when that was last told,
whether it was promoted to River's tier, its largest surprise, what it holds of the model."""


class Reached(NamedTuple):
    """A key reached a level: everything an explanation needs, as of that row."""

    row: int
    level: int
    """1 notice, 2 warning, 3 critical."""
    surprise: float
    """-ln of the key-level p-value."""
    by_family: NDArray[np.float32]
    """-ln p by family, (F,)."""
    by_statistic: NDArray[np.float32]
    """-ln p by statistic, (S,)."""
    mean: NDArray[np.float32]
    """The running means, (S,)."""
    e_detector: NDArray[np.float32]
    """log10 of the e-detectors, (len(BETS),)."""
    extraction: Extraction | None = None
    """What the key holds of the model; None where nothing is known of that."""
    river: float = nan
    """-ln p of River's verdict; NaN where it has none."""


class Watched(NamedTuple):
    """What a watch saw in some rows; rows count among those looked at, but where it says otherwise."""

    part: Part
    """What was looked at, m rows."""
    reached: list[Reached]
    promotions: list[tuple[int, float]]
    """(row, surprise) at which a key earned a place in River's tier, or reached a level; rows ascending."""
    features: NDArray[np.float32]
    """Scores that River's forests see together: (m, len(FEATURES))."""
    crossed: list[Crossed]
    """Rows at which a key came to hold what is told of, ascending, among all of the model's."""
    surprise: NDArray[np.float32]
    """-ln p of each row's key after the row, (m,)."""


class Watch:
    """The events of one model, compared with its reference."""

    def __init__(self, reference: ModelReference) -> None:
        """Compare with this reference."""
        self.reference = reference
        self.version = reference.version
        self._budget = None if reference.extraction is None else Budget(reference.extraction)
        self._track = Track(reference.event)
        key = reference.key
        self._tails = prepare(key.tail_knots, key.tail_surprise, key.tail_slope)

    @property
    def current(self) -> Watch:
        """Itself: what an alert was compared with."""
        return self

    def process(self, piece: ModelRows, slabs: Slabs, part: Part) -> Watched:
        """Score the part, in order; find rows at which a key reached or still stands at a level, or rose.

        What keys hold of the model is accounted for over all rows.
        """
        progress = self._track.advance(piece.batch, piece.rows, piece.slots, slabs, part)
        count = len(part.rows)
        levels, promoted = np.empty(count, np.uint8), np.empty(count, np.uint8)
        strength = np.empty(count, np.float32)
        overall = self._judge(progress, part.slots, slabs)
        note_levels(
            overall, progress.e_detector, part.slots, part.time_ms, THRESHOLDS, AGAIN_MS,
            PROMOTION_SURPRISE, PROMOTION_E_VALUE,
            slabs["level"], slabs["level_told_ms"], slabs["surprise_peak"], slabs["promoted"],
            levels, strength, promoted,
        )  # fmt: skip
        rows = (levels | promoted).nonzero()[0].tolist()
        budget = self._budget
        held = progress.spread, piece.time_ms, piece.slots, slabs
        account = None if budget is None else budget.process(*held)
        reached = self._reached(levels, overall, progress, account, part) if len(rows) else []
        promotions = [(row, float(strength[row])) for row in rows]
        crossed = account.crossed() if account else []
        return Watched(part, reached, promotions, progress.features, crossed, overall)

    def _judge(self, progress: Progress, slots: NDArray[np.int64], slabs: Slabs) -> NDArray[np.float32]:
        """Say how surprising each row's key is after the row, and note the keys' largest z-values."""
        key, overall = self.reference.key, np.empty(len(slots), np.float32)
        level = key.mean, key.within_variance, key.between_variance
        judge(
            progress.mean, progress.mass, slots, HORIZONS, *level, GROUP_OF, self._tails,
            surprise_limit(key), slabs["z_peak"], overall,
        )  # fmt: skip
        return overall

    def _reached(
        self,
        levels: NDArray[np.uint8],
        overall: NDArray[np.float32],
        progress: Progress,
        account: Account | None,
        part: Part,
    ) -> list[Reached]:
        """Say what there is to say of the rows that have a level, in each tail too."""
        rows = levels.nonzero()[0]
        key, z = self.reference.key, np.empty((len(rows), len(STATISTICS)), np.float32)
        level = key.mean, key.within_variance, key.between_variance
        standardise(progress.mean[rows], progress.mass[rows], HORIZONS, *level, z)
        verdict = read_tails(z, key)
        return [
            Reached(
                row=row,
                level=int(levels[row]),
                surprise=float(overall[row]),
                by_family=verdict.by_family[place],
                by_statistic=verdict.by_statistic[place],
                mean=progress.mean[row],
                e_detector=np.log10(progress.e_detector[row]),
                extraction=account.describe(int(part.places[row])) if account else None,
            )
            for place, row in enumerate(rows.tolist())
        ]


class Verdict(NamedTuple):
    """Surprises (-ln p) of each row: by statistic (n, S), by family (n, F), overall (n,)."""

    by_statistic: NDArray[np.float32]
    by_family: NDArray[np.float32]
    overall: NDArray[np.float32]


def read_tails(z: NDArray[np.float32], key: KeyReference) -> Verdict:
    """Read z-values (n, S) in the lifetime tails of benign keys."""
    rows = len(z)
    verdict = Verdict(
        np.empty((rows, len(STATISTICS)), np.float32),
        np.empty((rows, len(FAMILIES)), np.float32),
        np.empty(rows, np.float32),
    )
    tables = key.tail_knots, key.tail_surprise, key.tail_slope
    surprises(z, FAMILY_OF, GROUP_OF, *tables, surprise_limit(key), *verdict)
    return verdict


def surprise_limit(key: KeyReference) -> np.float32:
    """Return the largest surprise that so many benign keys allow."""
    return np.float32(log(EXTRAPOLATION_LIMIT * float(key.key_count[0])))
