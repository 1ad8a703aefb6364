"""PRADA as published, for comparison; the engine does not use it.

Juuti, Szyller, Marchal, Asokan, "PRADA: protecting against DNN model stealing attacks", EuroS&P 2019,
Algorithm 1, with what the authors' code adds: tests every ten queries, on classes with ten distances or more.

Distances of honest queries to their predecessors of the same predicted class are said to be near normal,
those of synthetic queries not. Memory grows with every query that is far from the ones before, and so does
the time per query: this is what a detector for streams cannot be.

Blind to natural inputs from elsewhere (Knockoff, Copycat) and to uniform noise. Alarms on honest keys that
repeat inputs, send frames, or ask in batches.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import shapiro

from detectors.kernelcache import njit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from detectors.base import Array

DELTA = 0.95
"""Shapiro-Wilk's W below this is an attack; the paper's value for MNIST."""
LEAST_DISTANCES = 100
"""A test needs more distances than this."""
TEST_EVERY = 10
LEAST_OF_CLASS = 10
OUTLIER_DEVIATIONS = 3.0


class Prada:
    """The detector of one key."""

    def __init__(self) -> None:
        self._count = 0
        self._classes: dict[int, _GrowingSet] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of all that is remembered."""
        return sum(growing.nbytes for growing in self._classes.values())

    def observe(self, query: NDArray[np.float32], label: int) -> float | None:
        """Take in a query (d,) of a predicted class; return W if this query is tested, else None."""
        growing = self._classes.get(label)
        if growing is None:
            self._classes[label] = _GrowingSet(query)
        else:
            growing.add(query)
        self._count += 1
        return self._test() if self._count % TEST_EVERY == 1 else None

    def _test(self) -> float | None:
        pools = [g.distances for g in self._classes.values() if len(g.distances) >= LEAST_OF_CLASS]
        distances = np.concatenate([*pools, np.empty(0)])
        if len(distances) <= LEAST_DISTANCES:
            return None
        kept = distances[np.abs(distances - distances.mean()) < OUTLIER_DEVIATIONS * distances.std()]
        if len(kept) <= LEAST_DISTANCES:
            return None
        with warnings.catch_warnings():  # scipy doubts its p-value above 5,000 distances; W is all we need
            warnings.filterwarnings("ignore", "scipy.stats.shapiro", UserWarning)
            return float(shapiro(kept).statistic)


def first_alarm(queries: NDArray[np.float32], labels: NDArray[np.int32], delta: float = DELTA) -> int | None:
    """Return the number, from one, of the query at which a key's queries (n, d) first look like an attack."""
    return next((number for number, w in _tests(queries, labels) if w < delta), None)


def _tests(queries: NDArray[np.float32], labels: NDArray[np.int32]) -> Iterator[tuple[int, float]]:
    """Yield the query's number and W at each test."""
    key = Prada()
    for number, (query, label) in enumerate(zip(queries, labels.tolist(), strict=True), 1):
        w = key.observe(query, label)
        if w is not None:
            yield number, w


_FIRST_ROWS = 1024


class _GrowingSet:
    """What is remembered of one predicted class, and how far each query was from it."""

    def __init__(self, first: NDArray[np.float32]) -> None:
        self._members = np.zeros((_FIRST_ROWS, len(first)), np.float32)
        self._members[0] = first
        self._count = 1
        self._admitted = [0.0]
        self._threshold = 0.0
        self._seen: list[float] = []

    @property
    def distances(self) -> NDArray[np.float64]:
        """Distance of each query but the first to the nearest member."""
        return np.array(self._seen)

    @property
    def nbytes(self) -> int:
        """Bytes of the members and distances, without what is reserved."""
        return self._members[: self._count].nbytes + 8 * (len(self._admitted) + len(self._seen))

    def add(self, query: NDArray[np.float32]) -> None:
        """Measure the distance of a query; admit it if that exceeds the threshold."""
        distance = float(_nearest(query, self._members, self._count))
        self._seen.append(distance)
        if distance <= self._threshold:
            return
        if self._count == len(self._members):
            self._members = np.concatenate([self._members, np.zeros_like(self._members)])
        self._members[self._count] = query
        self._count += 1
        self._admitted.append(distance)
        self._threshold = max(self._threshold, float(np.mean(self._admitted) - np.std(self._admitted)))


@njit(cache=True, nogil=True)
def _nearest(query: Array, members: Array, count: int) -> Any:
    """Return the distance to the nearest of the first members."""
    nearest = np.inf
    for k in range(count):
        total = 0.0
        for j in range(len(query)):
            apart = query[j] - members[k, j]
            total += apart * apart
        nearest = min(nearest, total)
    return np.sqrt(nearest)
