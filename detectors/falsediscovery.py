"""Of the keys called discoveries, at most a stated share is honest, whatever depends on what.

e-LOND (Xu and Ramdas, AISTATS 2024): the null hypotheses "this key is honest" arrive one after the other, and
number t is rejected when its e-value reaches 1 / (q beta_t (D + 1)), with D rejections so far. The false
discovery rate is at most q under any dependence, which matters: campaigns and changes of traffic move many
keys at once. For a whole set at one moment there is e-BH (Wang and Ramdas, JRSS B 2022).

Only keys that were alerted are tested, so their evidence counts from there: an honest key gets as far as p in
its lifetime with probability p, hence, once it is alerted, with p / `ALERTED`. A key keeps its number; its
lifetime's evidence is one e-value however often it is looked at. A p-value is as good as the tail that it is
read in, and never below one in 200 times the reference keys: with fewer than about 3,000 of those nothing can
be a discovery at q = 0.1. The bound holds for each engine, that is for each source partition.
"""

from __future__ import annotations

from math import exp, log, log10, sqrt
from typing import TYPE_CHECKING

import numpy as np

from detectors.watch import BUDGETS

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALERTED = BUDGETS[0]
"""Share of honest keys that are ever alerted."""
KAPPA = 0.1
"""Exponent of the calibrator kappa p^(kappa - 1) (Vovk and Wang, Annals of Statistics 2021), of mean 1 for
uniform p; 0.1 is best for p near one in 20,000, where alerts must get to be discoveries."""
_BETA_SCALE = 0.0772
"""Makes the weights sum to at most 1 (Javanmard and Montanari, Annals of Statistics 2018)."""


def weight(number: int) -> float:
    """Return beta_t, the share of the error budget for hypothesis t = 1, 2, ...; they sum to at most 1."""
    return _BETA_SCALE * log(max(number, 2)) / (number * exp(sqrt(log(number))))


def alerted_e_value_log10(key_p_value: float) -> float:
    """Return log10 of the e-value of an alerted key from its lifetime p-value."""
    return log10(KAPPA) + (KAPPA - 1) * log10(min(key_p_value / ALERTED, 1.0))


def lifetime_e_value_log10(key_p_value: float) -> float:
    """Return log10 of the e-value of any key, alerted or not, from its lifetime p-value."""
    return log10(KAPPA) + (KAPPA - 1) * log10(key_p_value)


class OnlineFalseDiscovery:
    """e-LOND over a stream of hypotheses.

    Parameters
    ----------
    ratio
        Share of the discoveries that may be false, in expectation.
    """

    def __init__(self, ratio: float) -> None:
        self._ratio = ratio
        self.hypotheses = 0
        self.discoveries = 0

    def enter(self) -> int:
        """Take in a new hypothesis and return its number, from 1."""
        self.hypotheses += 1
        return self.hypotheses

    def test(self, number: int, e_value_log10: float) -> bool:
        """Tell whether the hypothesis of that number is rejected now; ask no more once it was."""
        level = self._ratio * weight(number) * (self.discoveries + 1)
        rejected = e_value_log10 >= -log10(level)
        self.discoveries += rejected
        return rejected

    def dump(self) -> tuple[int, int]:
        """Return the state: hypotheses and discoveries so far."""
        return self.hypotheses, self.discoveries

    def restore(self, hypotheses: int, discoveries: int) -> None:
        """Replace the state by a dump.

        Raises
        ------
        ValueError
            If there are more discoveries than hypotheses, or fewer than none.
        """
        if not 0 <= discoveries <= hypotheses:
            raise ValueError(f"{discoveries} discoveries among {hypotheses} hypotheses are impossible")
        self.hypotheses, self.discoveries = hypotheses, discoveries


def e_bh(e_value_log10: NDArray[np.float64], ratio: float) -> NDArray[np.bool_]:
    """Choose discoveries among n hypotheses at one moment: bool (n,).

    The k largest e-values, for the largest k with all of them at least n / (ratio k). At most `ratio` of them
    are false in expectation, under any dependence. All n keys must be given, not only the odd ones.
    """
    count = len(e_value_log10)
    if not count:
        return np.zeros(0, np.bool_)
    ordered = np.sort(e_value_log10)[::-1]
    enough = np.flatnonzero(ordered >= np.log10(count / (ratio * np.arange(1, count + 1))))
    if not len(enough):
        return np.zeros(count, np.bool_)
    chosen: NDArray[np.bool_] = e_value_log10 >= ordered[enough[-1]]
    return chosen
