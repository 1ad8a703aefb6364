"""Plain-Python twin of `detectors.univariate`, one series at a time.

The values known are kept as a dictionary from cell to life, with no array and no window of cells; the cells
are re-laid where the kernel does so.
"""

from __future__ import annotations

import math

import numpy as np

CELLS, TICK, RATE = 64, 16, 2e-4


class Memory:
    """Which values are known."""

    def __init__(self) -> None:
        self.life: dict[int, int] = {}
        self.seen = 0
        self.width = self.low = self.high = self.centre = 0.0
        self.first, self.coarser = 0, False

    def tick(self) -> None:
        self.life = {cell: life - 1 for cell, life in self.life.items() if life > 1}

    def lay(self, value: float) -> None:
        """Choose the width and the first cell anew."""
        while True:
            cell = math.floor(value / self.width)
            low, high = min(*self.life, cell, cell), max(*self.life, cell, cell)
            if high - low < 48:
                break
            halved: dict[int, int] = {}
            for old, life in self.life.items():
                halved[old // 2] = max(life, halved.get(old // 2, 0))
            self.life, self.width, self.coarser = halved, self.width * 2, True
        while not self.coarser and max(self.life) > min(self.life) and 2 * (high - low + 1) <= 24:
            self.life = {2 * cell + side: life for cell, life in self.life.items() for side in (0, 1)}
            self.width /= 2
            low, high = 2 * low, 2 * high + 1
        cell = math.floor(value / self.width)
        low, high = min(*self.life, cell, cell), max(*self.life, cell, cell)
        self.first = low - (CELLS - (high - low + 1)) // 2

    def novelty(self, value: float) -> float:
        self.seen += 1
        if self.seen == 1:
            self.width = 2.0 ** math.frexp(max(abs(value) * 1e-5, 1e-9))[1]
            self.first = math.floor(value / self.width) - CELLS // 2
            self.low = self.high = self.centre = value
        if self.seen % 512 == 0 or not 0 <= math.floor(value / self.width) - self.first < CELLS:
            self.coarser = False
            self.lay(value)
        cell = math.floor(value / self.width)
        score = 0.0
        if self.seen > 100 and cell not in self.life:
            place = value / self.width
            gap = min(max(place - known - 1, known - place) for known in self.life)
            score = gap / (gap + max((self.high - self.low) / self.width, 1))
        life = self.life.get(cell, 0)
        self.life[cell] = min(round(math.log(1 + math.exp(RATE * TICK * life)) / RATE / TICK), 4095)
        self.centre += max(1 / self.seen, 0.001) * (value - self.centre)
        self.low = min(self.low + 0.001 * (self.centre - self.low), value)
        self.high = max(self.high - 0.001 * (self.high - self.centre), value)
        return score


class Twin:
    """One series."""

    def __init__(self) -> None:
        self.rows, self.last_ms = 0, -math.inf
        self.values, self.residuals = Memory(), Memory()
        self.profile: dict[int, tuple[int, np.float32]] = {}
        self.mean = self.variance = self.value_spread = self.residual_spread = 0.0
        self.record, self.quiet_until = 0.0, 0

    def score(self, time_ms: int, value: float) -> float:
        """Score one row, then learn it."""
        if not abs(value) <= 1e30 or time_ms <= self.last_ms:
            return math.nan
        self.rows, self.last_ms = self.rows + 1, time_ms
        if self.rows % TICK == 0:
            self.values.tick()
            self.residuals.tick()
        novelty = self.values.novelty(value)
        z = self._z(value)
        score = novelty + 0.5 * self._residual(time_ms, value) + 0.004 * z
        weight = max(1 / self.rows, 1 / 2000)
        self.value_spread += weight * (abs(value - self.values.centre) - self.value_spread)
        if self.rows <= 100:
            return math.nan
        if self.rows > self.quiet_until:
            self.record = 0.0
        if score <= self.record:
            return 0.0
        self.record, self.quiet_until = score, self.rows + 100
        return score

    def _z(self, value: float) -> float:
        if self.rows == 1:
            self.mean = value
        off = value - self.mean
        z = min(abs(off) / math.sqrt(self.variance), 5) if self.variance > 0 else 0.0
        weight = max(1 / self.rows, 1 / 500)
        self.mean += weight * off
        self.variance = (1 - weight) * (self.variance + weight * off * off)
        return z

    def _residual(self, time_ms: int, value: float) -> float:
        slot = time_ms // 7_200_000 % 84
        count, mean = self.profile.get(slot, (0, np.float32(0)))
        off = value - float(mean)
        score = 0.0
        if count >= 2:
            explains = self.residual_spread < 0.75 * self.value_spread
            score = self.residuals.novelty(off) * (explains and self.residuals.seen > 50)
            weight = max(1 / self.residuals.seen, 1 / 2000)
            self.residual_spread += weight * (abs(off) - self.residual_spread)
        moved = np.float32(float(mean) + max(1 / (count + 1), 0.05) * off)
        self.profile[slot] = (count + 1, moved)
        return score
