"""Whether keys share one workload: their numbers of queries are closer to each other than customers' are.

Honest customers differ in volume by factors, and their sessions add to it. Keys that are fed from one queue
differ by chance alone, or, taking turns, not at all. The null: ln of the counts is normal with variance at
least `HONEST_VARIANCE` plus that of a Poisson count. The sample variance is compared with it by the
chi-squared distribution; for larger groups the interquartile range too, so that a few strangers in the group
hide nothing.
"""

from __future__ import annotations

from math import exp
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import chdtr

from detectors.watch import BUDGETS

if TYPE_CHECKING:
    from numpy.typing import NDArray

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


def pace_p_value(fresh: NDArray[np.int64], total: NDArray[np.int64]) -> float:
    """Return the p-value of so even counts (k,), since the link or in all; 1 if they are too few to tell."""
    parts = ((fresh, LEAST_FRESH), (total, LEAST_TOTAL))
    tested = [_evenness(counts) for counts, least in parts if np.sort(counts)[len(counts) // 2] >= least]
    return min(1.0, len(tested) * min(tested)) if tested else 1.0


def _evenness(counts: NDArray[np.int64]) -> float:
    """Return the p-value of counts as even as these."""
    ordered = np.log(np.sort(counts) + 0.5)
    typical = exp(ordered[len(counts) // 2])
    freedom = float(len(counts) - 1)
    expected = HONEST_VARIANCE + 1 / typical
    discrete = 1 / (12 * typical * typical)
    p_value = chdtr(freedom, freedom * (ordered.var(ddof=1) + discrete) / expected)
    if len(counts) >= _ROBUST_MEMBERS:
        freedom *= _IQR_EFFICIENCY
        quarter = len(counts) // 4
        spread = ((ordered[-1 - quarter] - ordered[quarter]) / _NORMAL_IQR) ** 2 + discrete
        p_value = 2 * min(p_value, chdtr(freedom, freedom * spread / expected))
    return float(np.clip(p_value, LEAST_P_VALUE, 1.0))
