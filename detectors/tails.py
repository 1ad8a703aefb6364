"""Lifetime tails: the share of benign keys whose largest value gets this far, and beyond.

Learned by `detectors.calibration` and `detectors.secondopinion`, read by `detectors.keylevel.tail`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

TAIL_RATIO = 0.1
"""Share of the keys, from the top, that the exponential tail is fitted to."""
TAIL_KEYS = 8
"""Keys that the tail is fitted to at least."""
TAIL_KNOTS = 64
EXCESS_FLOOR = 0.5
"""Smallest mean excess of a tail that is believed, in standard units."""
_NEVER = -1e6
"""Peak of a key that was too young for a statistic."""


def fit_tail(
    lifetime: NDArray[np.float32],
    *,
    censored: int,
    empirical_top: bool,
    excess_floor: float = EXCESS_FLOOR,
) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    """Fit -ln P(lifetime maximum >= z): knots, surprises, slope beyond the last knot.

    The lower nine tenths of the keys are their own quantiles. Above, an exponential tail
    (Pickands-Balkema-de Haan with shape 0) whose mean excess is the maximum-likelihood estimate with the
    largest `censored` keys known only to be large (Epstein and Sobel, JASA 1953), widened by its standard
    error. With `empirical_top` it begins beyond the largest key, and between the keys stands their rank with
    the new key counted, (j + 1) / (n + 1): the conformal p-value.
    """
    ordered = np.sort(np.where(np.isfinite(lifetime), lifetime, _NEVER))[::-1].astype(float)
    count = len(ordered)
    upper = min(max(TAIL_KEYS, int(TAIL_RATIO * count)) + censored, count - 1)
    excess = np.minimum(ordered[:upper], ordered[min(censored, count - 1)]) - ordered[upper]
    known = max(upper - censored, 1)
    scale = max(float(excess.sum()) / known, excess_floor) * (1 + known**-0.5)
    top = np.arange(min(upper, TAIL_KNOTS // 2)) if empirical_top else np.array([upper])
    places = np.unique(np.concatenate([top, np.linspace(upper, count - 1, TAIL_KNOTS // 2)]).astype(int))
    knots, first = np.unique(ordered[places][::-1], return_index=True)
    surprise = -np.log((places[::-1][first] + 1.0) / (count + 1.0))
    pad = TAIL_KNOTS - len(knots)
    knots = np.concatenate([knots[0] - np.arange(pad, 0, -1.0), knots])
    surprise = np.concatenate([np.zeros(pad), surprise])
    return knots.astype(np.float32), surprise.astype(np.float32), 1 / scale
