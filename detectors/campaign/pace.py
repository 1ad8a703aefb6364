"""Whether keys share one workload: their numbers of queries are closer to each other than customers' are.

Honest customers differ in volume by factors, and their sessions add to it. Keys that are fed from one queue
differ by chance alone, or, taking turns, not at all. The null: ln of the counts is normal with variance at
least `HONEST_VARIANCE` plus that of a Poisson count. The sample variance is compared with it by the
chi-squared distribution; for larger groups the interquartile range too, so that a few strangers in the group
hide nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import chdtr

from detectors.kernelcache import njit
from detectors.watch import BUDGETS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detectors.base import Array

HONEST_VARIANCE = 0.7
"""Variance of ln queries between honest keys that is assumed: less than was measured, to be safe."""
CAMPAIGN_BUDGETS = tuple(budget / 10 for budget in BUDGETS)
"""Expected false campaigns per model and week at notice, warning, critical: a tenth of a key's budgets,
since a campaign accuses several customers at once."""
LEAST_FRESH = 5.0
"""Median queries per key since the link from which a group is tested on those."""
LEAST_TOTAL = 32.0
"""Median queries per key in all from which it is tested on those: eight times what a key needs to be linked,
so that leaving out keys with fewer narrows the spread by little."""
LEAST_P_VALUE = 1e-12
_ROBUST_MEMBERS = 12
_NORMAL_IQR = 1.349
_IQR_EFFICIENCY = 0.37
"""Asymptotic efficiency of the interquartile range as an estimate of a normal standard deviation."""


def pace_p_values(
    fresh: NDArray[np.int64], total: NDArray[np.int64], edges: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the p-value of each group's counts being so even, since the link or in all.

    Parameters
    ----------
    fresh, total : int64 (k,)
        Counts since the link and in all, one group after the other.
    edges : int64 (groups + 1,)
        Group g has the counts from `edges[g]` up to `edges[g + 1]`.

    Returns
    -------
    float64 (groups,)
        1 where the counts are too few to tell.
    """
    parts = np.stack([_evenness(fresh, edges, LEAST_FRESH), _evenness(total, edges, LEAST_TOTAL)])
    tested = np.isfinite(parts)
    least = np.where(tested, parts, 1.0).min(axis=0)
    return np.asarray(np.minimum(1.0, np.maximum(tested.sum(axis=0), 1) * least))


def _evenness(counts: NDArray[np.int64], edges: NDArray[np.int64], least: float) -> NDArray[np.float64]:
    """Return per group the p-value of counts as even as these; NaN if their median is below the least."""
    measured = np.full((4, len(edges) - 1), np.nan)
    _measure(counts, edges, least, measured)
    freedom, variance, robust_freedom, spread = measured
    p_value = chdtr(freedom, freedom * variance)
    robust = chdtr(robust_freedom, robust_freedom * spread)
    both = np.where(np.isfinite(robust), 2 * np.minimum(p_value, robust), p_value)
    return np.asarray(np.clip(both, LEAST_P_VALUE, 1.0))


@njit(cache=True, nogil=True)
def _measure(counts: Array, edges: Array, least: float, out: Array) -> None:
    """Measure groups: degrees of freedom and variance over that expected, plainly and by the quartiles.

    A column of `out` (4, groups) stays as it is where the group's median is below the least, its last two
    entries also where the group is too small for quartiles.
    """
    for g in range(len(edges) - 1):
        members = edges[g + 1] - edges[g]
        ordered = np.sort(counts[edges[g] : edges[g + 1]])
        if ordered[members // 2] < least:
            continue
        logs = np.log(ordered + 0.5)
        typical = ordered[members // 2] + 0.5
        expected = HONEST_VARIANCE + 1 / typical
        discrete = 1 / (12 * typical * typical)
        out[0, g] = members - 1
        out[1, g] = (logs.var() * members / (members - 1) + discrete) / expected
        if members >= _ROBUST_MEMBERS:
            quarter = members // 4
            spread = (logs[-1 - quarter] - logs[quarter]) / _NORMAL_IQR
            out[2, g] = (members - 1) * _IQR_EFFICIENCY
            out[3, g] = (spread * spread + discrete) / expected
