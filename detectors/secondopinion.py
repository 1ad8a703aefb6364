"""A second opinion on promoted keys: River's verdict, compared between keys like every other.

A key is promoted when it has come further than most benign keys do, or when an e-detector bets strongly
against its events. From then on River's tier (`detectors.rivertier`) ranks its events among other keys'. How
high the mean rank gets is compared with benign keys that were all promoted for the purpose. The verdict never
raises a level; it stands in the alert as a family that agrees or does not.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING, Any

import numpy as np

from detectors.keylevel import read_tail
from detectors.reference import RiverReference
from detectors.rivertier import RiverTier
from detectors.tails import fit_tail

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from detectors.base import Array
    from detectors.watch import Watched

FEATURES = ("input_distance", "embedding_distance", "overall_distance", "hardness")
"""Scores that River's forests see together."""

PROMOTION_SURPRISE = np.float32(log(50))
"""-ln of the share of benign keys that are promoted in their lifetime by their surprise alone."""
PROMOTION_E_VALUE = np.float32(1e6)
"""Of an e-detector, that promotes a key: once in a million events of a key under its null."""
SAMPLE_ROWS = 2000
"""Benign events that a forest is trained with."""
EVENTS_PER_KEY = 256
"""Events of a benign key that are ranked when the reference is learned."""


def rank_surprise(mean_rank: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn mean ranks (0 to 1) into -log10 of what is above them, so that 0.9 is 1 and 0.99 is 2."""
    return np.asarray(-np.log10(np.maximum(1.0 - mean_rank.astype(np.float64), 1e-4)), np.float32)


def fit_river(features: Sequence[NDArray[np.float32]]) -> RiverReference | None:
    """Learn River's reference from the features (n_k, 4) of benign keys, one array a key.

    Every second key trains the forest, the others are ranked by it: no key is ranked by its own events.
    None if there are fewer than four keys or no finite feature to train with.
    """
    teachers = [rows[:: max(len(rows) // 32, 1)] for rows in features[::2]]
    sample = np.concatenate(teachers)[:SAMPLE_ROWS] if teachers else np.empty((0, len(FEATURES)), np.float32)
    if len(features) < 4 or not np.isfinite(sample).any():
        return None
    tier = RiverTier(max_keys=len(features))
    tier.pretrain(0, sample)
    peaks = []
    for slot, rows in enumerate(features[1::2]):
        tier.promote(slot, 1.0, 0)
        some = rows[:EVENTS_PER_KEY]
        blank = np.zeros(len(some), np.int64)
        ranks = tier.score(blank + slot, blank.astype(np.int32), blank, some)[:, 1]
        peaks.append(rank_surprise(ranks[np.isfinite(ranks)]).max(initial=-np.inf))
    knots, surprise, slope = fit_tail(np.array(peaks, np.float32), censored=0, empirical_top=True)
    return RiverReference(sample, knots, surprise, np.array([slope], np.float32))


class SecondOpinion:
    """River's tier for one engine, cut-independent: promotion takes effect at the key's next event.

    Parameters
    ----------
    max_keys
        Promoted keys at once.
    """

    def __init__(self, max_keys: int) -> None:
        self._tier = RiverTier(max_keys)
        self._references: dict[int, RiverReference] = {}

    def __len__(self) -> int:
        """Count the promoted keys."""
        return len(self._tier.promoted)

    def add_model(self, model: int, reference: RiverReference) -> None:
        """Take up a model; its forest is trained at once (a second or two, with River's import)."""
        self._references[model] = reference
        self._surprises(model, np.ones(1, np.float32))  # compiled now, not with the first alert
        self._tier.pretrain(model, reference.sample)

    def drop(self, slots: NDArray[np.int64]) -> None:
        """Forget keys that lost their slots."""
        for slot in slots.tolist():
            self._tier.demote(slot)

    def advance(
        self,
        model: int,
        watched: Watched,
    ) -> NDArray[np.float32]:
        """Rank the rows of promoted keys, and promote keys after the rows that earn them a place.

        Parameters
        ----------
        model
            Whose rows they are.
        watched
            What was seen in the rows that were looked at, m.

        Returns
        -------
        float32 (len(watched.reached),)
            -ln of the share of benign keys whose mean rank gets as high as at that row; NaN where River says
            nothing.
        """
        slots, time_ms = watched.part.slots, watched.part.time_ms
        reached = np.array([one.row for one in watched.reached], np.int64)
        found = np.full(len(reached), np.nan, np.float32)
        if model not in self._references:
            return found
        models, features, start = np.full(len(slots), model, np.int32), watched.features, 0
        for row, surprise in watched.promotions:
            cut = slice(start, row + 1)
            rows = slots[cut], models[cut], time_ms[cut], features[cut]
            asked = (reached >= start) & (reached <= row)
            if asked.any():
                found[asked] = self._surprises(model, self._mean_ranks(rows, reached[asked] - start))
            else:
                self._tier.follow(*rows)
            start = row + 1
            self._tier.promote(int(slots[row]), surprise, int(time_ms[row]))
        self._tier.follow(slots[start:], models[start:], time_ms[start:], features[start:])
        return found

    def _mean_ranks(self, rows: tuple[Array, Array, Array, Array], asked: Array) -> Array:
        """Score rows; return the mean ranks at those that are asked for."""
        is_asked = np.zeros(len(rows[0]), np.bool_)
        is_asked[asked] = True
        ranks = self._tier.score(*rows, is_asked)
        return np.asarray(ranks[asked, 1])

    def _surprises(self, model: int, mean_rank: NDArray[np.float32]) -> NDArray[np.float32]:
        reference = self._references[model]
        out = np.full(len(mean_rank), np.nan, np.float32)
        rows = np.isfinite(mean_rank).nonzero()[0]
        if not len(rows):
            return out
        heights = rank_surprise(mean_rank[rows])
        found = np.empty(len(rows), np.float32)
        read_tail(heights, reference.knots, reference.surprise, reference.slope[0], found)
        out[rows] = found
        return out

    def dump(self) -> dict[str, NDArray[Any]]:
        """Return the state as arrays of numbers."""
        return self._tier.dump()

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Replace the state by a dump.

        Raises
        ------
        ValueError
            If the dump is malformed.
        """
        self._tier.restore(arrays)
