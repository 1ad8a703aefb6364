"""Evidence that holds at every moment: conformal p-values, sparse power bets, Shiryaev-Roberts.

Each score of an event becomes a p-value against benign scores; fifteen experts bet against each p-value; a
Shiryaev-Roberts e-detector per key keeps what each expert won. Their average R satisfies: if a key's p-values
are uniform given its past, the mean number of events until R reaches a threshold A is at least A.

Sources
-------
p-values: Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005 (smoothed, conformal).
Bets: Vovk, Nouretdinov, Gammerman, "Testing exchangeability on-line", ICML 2003 (power martingale); the share
rho of odd events is added here, for traffic that mixes an attack with ordinary queries.
Restarts: Shin, Ramdas, Rinaldo, "E-detectors: a nonparametric framework for sequential change detection",
NEJSDS 2023.

The table of benign scores is fixed and finite, so p-values are uniform up to O(1 / sqrt(k)) only, and
serially dependent scores break the condition too. R is therefore for comparing keys; the false-alarm budget
is kept by the calibration between keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from detectors.kernelcache import njit
from detectors.prefetch import prefetch, slot_ahead

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detectors.base import Array, Fields

KNOTS = 1024
"""Most knots in a quantile table."""
KAPPAS = (0.1, 0.3, 0.6)
"""Exponents of the power bets; small ones bet on very small p-values."""
RHOS = (1.0, 0.3, 0.1, 0.03, 0.01)
"""Shares of a key's events that a bet takes to be odd."""
EXPERTS = len(KAPPAS) * len(RHOS)
LARGEST = 1e30
"""Where the value saturates; the product with any bet still fits float32."""

_BINS = 256
_BINS_PER_OCTAVE_LOG2 = 3
_MANTISSA_SHIFT = 23 - _BINS_PER_OCTAVE_LOG2
_LAST_BIN = (127 << _BINS_PER_OCTAVE_LOG2) - 1
"""Number of the bin that ends at 1.0, counted from the smallest float32."""


def evidence_fields(score_count: int) -> Fields:
    """Return the slab that `update` keeps for that many scores: `evidence`, 60 bytes per score and key."""
    return {"evidence": ("f4", (score_count, EXPERTS))}


def quantile_table(score: Array) -> NDArray[np.float32]:
    """Condense benign scores into sorted quantiles, float32 (k,), at most `KNOTS`.

    Up to `KNOTS` scores the table holds them all. NaN and infinities are left out.
    """
    ordered = np.sort(score[np.isfinite(score)]).astype(np.float32)
    if len(ordered) > KNOTS:
        ordered = ordered[((np.arange(KNOTS) + 0.5) / KNOTS * len(ordered)).astype(np.int64)]
    return ordered


def tie_uniforms(seed: Array, columns: int) -> NDArray[np.float32]:
    """Draw the numbers that smooth ties, the same on every replay.

    Parameters
    ----------
    seed : uint64 (n,)
        What tells events apart and the client cannot choose, for example a word of the key reference plus the
        number of its events.
    columns
        Numbers per event.

    Returns
    -------
    float32 (n, columns)
        In the open interval (0, 1): the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), 23 bits.
    """
    step = np.arange(1, columns + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    word = seed.astype(np.uint64)[:, None] + step
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    word ^= word >> np.uint64(31)
    uniform: NDArray[np.float32] = ((word >> np.uint64(41)).astype(np.float32) + np.float32(0.5)) / 2**23
    return uniform


def p_values(score: Array, table: Array, uniform: Array) -> NDArray[np.float32]:
    """Return smoothed conformal p-values, upper tail: p = (#{c > s} + U (1 + #{c = s})) / (k + 1).

    Parameters
    ----------
    score : float32 (n,)
        Higher is stranger. NaN has no p-value.
    table : float32 (k,)
        Sorted benign scores or their quantiles (`quantile_table`). If it is empty, every p-value is NaN.
    uniform : float32 (n,)
        Numbers in (0, 1), one per row (`tie_uniforms`).

    Returns
    -------
    float32 (n,)
        At least 1 / (k + 1): a table cannot say more than its resolution. NaN for no opinion.
    """
    k = len(table)
    if k == 0:
        return np.full(len(score), np.nan, np.float32)
    above = k - np.searchsorted(table, score, side="right")
    equal = k - above - np.searchsorted(table, score, side="left")
    p = np.maximum((above + uniform.astype(np.float64) * (1 + equal)) / (k + 1), 1 / (k + 1))
    return np.where(np.isnan(score), np.nan, p).astype(np.float32)


def bet(p: float, kappa: float, rho: float) -> float:
    """Return the sparse power bet 1 - rho + rho kappa p^(kappa - 1), of mean 1 over uniform p."""
    return float(1 - rho + rho * kappa * p ** (kappa - 1))


def bin_edges() -> NDArray[np.float64]:
    """Return the upper edges of the bins of p, float64 (256,): eight to the octave, from 2^-32 to 1.

    Within an octave they are evenly spaced, so that a bin's number is the leading bits of the float32.
    """
    bits = (np.arange(_LAST_BIN - _BINS + 1, _LAST_BIN + 1, dtype=np.uint32) + 1) << _MANTISSA_SHIFT
    return bits.view(np.float32).astype(np.float64)


def bet_table() -> NDArray[np.float32]:
    """Return what each expert wins in each bin, float32 (256, 15), kappa varying slowest.

    Bets fall with p and are taken at the bin's upper edge, then rounded down: a table never overstates one.
    """
    wins = [[bet(p, kappa, rho) for kappa in KAPPAS for rho in RHOS] for p in bin_edges()]
    exact = np.array(wins)
    rounded = exact.astype(np.float32)
    return np.where(rounded > exact, np.nextafter(rounded, np.float32(0)), rounded)


_BETS = bet_table()


def update(p: Array, slots: Array, slab: Array) -> NDArray[np.float32]:
    """Bet against each row's p-values, in order, and return the evidence of its key after the row.

    Parameters
    ----------
    p : float32 (n, s)
        One p-value per score. NaN, or a number outside [0, 1], is no bet: nothing changes.
    slots : int64 (n,)
        The slot of each row's key.
    slab : float32 (capacity, s, 15)
        The experts' values per slot; zero is fresh. Changed in place: R becomes (R + 1) e, at most `LARGEST`.

    Returns
    -------
    float32 (n, s)
        log10 of the experts' average; NaN while nothing was bet.
    """
    p = np.ascontiguousarray(p, np.float32)
    out = np.empty(p.shape, np.float32)
    write_evidence(out, p, slots, slab)
    return np.log10(out)


@njit(cache=True, nogil=True)
def write_evidence(out: Array, p: Array, slots: Array, slab: Array) -> None:
    """Write the experts' averages, of which `update` returns the logarithms; `p` is contiguous."""
    bits = p.view(np.int32)
    one, largest = np.float32(1.0), np.float32(LARGEST)
    for i in range(p.shape[0]):
        prefetch(slab, slot_ahead(slots, i))
        for j in range(p.shape[1]):
            values = slab[slots[i], j]
            if 0.0 <= p[i, j] <= 1.0:
                number = (int(bits[i, j] - 1) >> _MANTISSA_SHIFT) - (_LAST_BIN - _BINS + 1)
                wins = _BETS[max(number, 0)]
                for k in range(EXPERTS):
                    values[k] = min((values[k] + one) * wins[k], largest)
            total = np.float32(0.0)
            for k in range(EXPERTS):
                total += values[k]
            out[i, j] = total / np.float32(EXPERTS) if total > 0 else np.nan
