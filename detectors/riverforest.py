"""River's half-space forest over the signals' scores, with what it takes to rank by it and to rebuild it.

Used by `detectors.rivertier`, whose docstring has the choice of its size. River learns; its trees are copied
into arrays whenever a window is full, the only time at which its scores change, and scored by a kernel.
"""

from __future__ import annotations

from collections import deque
from copy import deepcopy
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from detectors.kernelcache import njit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from detectors.base import Array

TREES, HEIGHT, WINDOW = 10, 4, 250
RECENT = 1024
"""Forest scores of other keys' events that a rank is taken among."""
_TRAINED_KEPT = 16
"""Trained forests that are kept to copy."""


class Forest:
    """A half-space forest with the scale of its features, the rows that made it, and scores to rank among."""

    def __init__(self, scale: Array, seed: int) -> None:
        from river.anomaly import HalfSpaceTrees  # noqa: PLC0415 - River takes one to two seconds to load

        self.scale = scale
        self.count = 0
        self.rows: list[list[float]] = []
        self.recent: deque[float] = deque(maxlen=RECENT)
        self.table = np.empty(0)
        self._trees = HalfSpaceTrees(n_trees=TREES, height=HEIGHT, window_size=WINDOW, seed=seed)
        self._compiled: tuple[Array, ...] = ()

    def scaled(self, features: Array) -> Array:
        """Bring features (m, d) to [0, 1]; NaN becomes the reference's median."""
        low, middle, high = self.scale
        filled = np.where(np.isfinite(features), features, middle)
        unit: Array = np.clip((filled - low) / (high - low), 0.0, 1.0)
        return unit

    def learn(self, scaled: Array, score: float) -> None:
        """Remember the score of an event of a key that is not promoted, then learn the event."""
        if self.count >= WINDOW:
            self.recent.append(score)
        self._grow(scaled.tolist())
        if self.count % WINDOW == 0:
            self.table = np.sort(np.array(self.recent))

    def _grow(self, row: list[float]) -> None:
        if self.count % WINDOW == 0:
            del self.rows[:-WINDOW]  # what came before the last full window has left the trees
        self.rows.append(row)
        self._trees.learn_one(dict(enumerate(row)))
        self.count += 1
        if self.count % WINDOW == 0:
            self._compiled = _compile(self._trees.trees)

    def scores(self, scaled: Array) -> Array:
        """Return what River's `score_one` does for each row; scores change only when a window is full."""
        out = np.zeros(len(scaled))
        if self._compiled:
            _walk_all(scaled, *self._compiled, out)
        return out

    def ranks(self, scores: Array) -> NDArray[np.float32]:
        """Return the share of recent scores below each score; equal ones count half."""
        between = np.searchsorted(self.table, scores, "left") + np.searchsorted(self.table, scores, "right")
        ranks: NDArray[np.float32] = ((between + 1) / (2 * len(self.table) + 2)).astype(np.float32)
        return ranks

    @classmethod
    def rebuild(cls, arrays: Mapping[str, Array], model: int, seed: int) -> Forest:
        """Make a forest from its dump by learning its rows again."""
        scale, rows, recent = (arrays[f"{name}/{model}"] for name in ("scale", "rows", "recent"))
        _, count, ranked = arrays[f"counts/{model}"].tolist()[:3]
        known = (count - 1) % WINDOW + 1 + WINDOW * (count > WINDOW)
        fits = scale.shape[0] == 3 and rows.shape == (known, scale.shape[1]) and count >= 2 * WINDOW
        if not fits or not (np.isfinite(rows).all() and (scale[2] > scale[0]).all()):
            raise ValueError(
                f"damaged dump of the River tier: the rows of model {model} do not fit their scale"
            )
        forest = cls(scale, seed)
        for row in rows.tolist():
            forest._grow(row)
        forest.count = count
        forest.table = recent[:ranked].copy()
        forest.recent.extend(recent[ranked:].tolist())
        return forest


def _compile(trees: list[Any]) -> tuple[Array, Array, Array]:
    """Copy River's trees, full and of one height, into arrays: feature, threshold and mass by node.

    A node's children follow at twice its place, plus one and plus two; leaves have a mass only.
    """
    levels = [[[tree] for tree in trees]]
    for _ in range(HEIGHT):
        levels.append([[child for node in nodes for child in node.children] for nodes in levels[-1]])
    inner = [[node for level in levels[:-1] for node in level[t]] for t in range(len(trees))]
    return (
        np.array([[node.feature for node in nodes] for nodes in inner], np.int64),
        np.array([[node.threshold for node in nodes] for nodes in inner], np.float64),
        np.array([[node.r_mass for level in levels for node in level[t]] for t in range(len(trees))], float),
    )


@njit(cache=True, nogil=True)
def _walk(point: Array, feature: Array, threshold: Array, mass: Array) -> Any:
    """Score a point as `HalfSpaceTrees.score_one` does: one less its share of the largest sum of masses."""
    total = 0.0
    for tree in range(len(feature)):
        node, weight = 0, 1.0
        for _ in range(HEIGHT):
            if mass[tree, node] < 0.1 * WINDOW:
                break
            total += mass[tree, node] * weight
            node = 2 * node + (1 if point[feature[tree, node]] < threshold[tree, node] else 2)
            weight *= 2
        total += mass[tree, node] * weight
    return 1.0 - total / (TREES * WINDOW * (2 ** (HEIGHT + 1) - 1))


@njit(cache=True, nogil=True)
def _walk_all(points: Array, feature: Array, threshold: Array, mass: Array, out: Array) -> None:
    for row in range(len(points)):
        out[row] = _walk(points[row], feature, threshold, mass)


def train(rows: Array, seed: int) -> Forest:
    """Return a forest that has learned the rows, float64 (m, d), each with a finite feature.

    Fewer than two windows of them are gone through again. Each partition's engine asks for the same forest:
    training takes six times as long as a copy.
    """
    return deepcopy(_train(rows.tobytes(), rows.shape[1], seed))


@lru_cache(maxsize=_TRAINED_KEPT)
def _train(rows: bytes, width: int, seed: int) -> Forest:
    usable = np.frombuffer(rows, np.float64).reshape(-1, width)
    forest = Forest(scale_of(usable), seed)
    for row in np.resize(forest.scaled(usable), (max(len(usable), 2 * WINDOW), width)):
        forest.learn(row, float(forest.scores(row[None])[0]))
    return forest


def scale_of(features: Array) -> Array:
    """Return low, median and high of each feature, float64 (3, d); a constant one spans one unit."""
    finite = np.isfinite(features)
    filled = np.where(finite, features, np.where(finite.any(axis=0), np.nan, 0.0))
    low, middle, high = np.nanquantile(filled, [0.005, 0.5, 0.995], axis=0)
    return np.stack([low, middle, np.where(high > low, high, low + 1.0)])
