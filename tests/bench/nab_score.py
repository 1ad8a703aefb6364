"""How good is the traffic detector on NAB, the Numenta Anomaly Benchmark (MIT)?

`python tests/bench/nab_score.py NAB`, where NAB holds the folders `data` and `labels` of
github.com/numenta/NAB. The files, sorted by name, are cut in two: those with an even place (0, 2, ...) are
the tuning half, the others the scored half. All constants of `detectors.univariate` were chosen on the tuning
half, and the threshold, one for all files, is found on it here; the scored half sets nothing. Beside the
detector stand three lines that know nothing of anomalies: a clock (its period chosen on the tuning half), a
new smallest or largest value, and random numbers. Published figures are in-sample, constants and threshold
fitted to all files: only the last column compares with them.

The scorer is NAB's own (Lavin and Ahmad, ICMLA 2015, as of NAB v1.1), written anew.
"""

from __future__ import annotations

import csv
import json
import math
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np

from detectors.univariate import UnivariateDetector

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from detectors.base import Array

PERIODS = range(50, 1001, 50)
"""Rows between the alerts of the clocks that are tried."""

SMOOTHING_STEPS = 20
"""Thresholds (each 2 % above the last) to either side that a threshold is judged with."""


@dataclass(frozen=True)
class Profile:
    """What NAB pays: for a detected window (at most), a false row (at most), a missed window."""

    hit: float
    false_row: float
    missed: float


PROFILES = {
    "standard": Profile(1, 0.11, 1),
    "low false positives": Profile(1, 0.22, 1),
    "low false negatives": Profile(1, 0.11, 2),
}


@dataclass(frozen=True, eq=False)
class Series:
    """One file of NAB, n rows.

    Attributes
    ----------
    name : str
    time_ms : int64 (n,)
    value : float64 (n,)
    window : int64 (n,)
        Number of the labelled window that a row is in, -1 for none.
    weight : float64 (n,)
        What a detected row is worth before the profile: in a window 0 to 1, outside -1 to 0.
    first_scored : int
        Rows before it are the probation and count for nothing.
    """

    name: str
    time_ms: Array
    value: Array
    window: Array
    weight: Array
    first_scored: int

    @property
    def windows(self) -> int:
        """Count the labelled windows."""
        return int(self.window.max()) + 1


@dataclass(frozen=True)
class Result:
    """What one threshold, chosen on the tuning half, scores; and the best one on all files in hindsight."""

    threshold: float
    tuning: float
    scored: float
    all_in_sample: float


def sigmoid(place: float) -> float:
    """NAB's scaled sigmoid: 1 far ahead of a window's end (place 0), 0 there, -1 beyond."""
    return -1.0 if place > 3 else 2 / (1 + math.exp(5 * place)) - 1


def read_corpus(folder: Path) -> list[Series]:
    """Read all files that have labels, sorted by name."""
    labels = json.loads((folder / "labels" / "combined_windows.json").read_text())
    return [_read(folder / "data" / name, name, labels[name]) for name in sorted(labels)]


def _read(path: Path, name: str, windows: list[tuple[str, str]]) -> Series:
    with path.open(newline="") as lines:
        rows = [(_time_ms(row["timestamp"]), float(row["value"])) for row in csv.DictReader(lines)]
    times = [time for time, _ in rows]
    spans = [(times.index(_time_ms(first)), times.index(_time_ms(last))) for first, last in windows]
    window, weight = _weigh(len(rows), spans)
    return Series(
        name=name,
        time_ms=np.array(times, np.int64),
        value=np.array([value for _, value in rows]),
        window=window,
        weight=weight,
        first_scored=math.ceil(min(math.floor(0.15 * len(rows)), 0.15 * 5000)),
    )


def _time_ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def _weigh(count: int, spans: Sequence[tuple[int, int]]) -> tuple[Array, Array]:
    """Give each row its window and its weight: spans are first and last row of the windows, in order."""
    window, weight = np.full(count, -1), np.full(count, -1.0)
    for number, (first, last) in enumerate(spans):
        width = last - first + 1
        for row in range(first, last + 1):
            weight[row] = sigmoid(-(last - row + 1) / width) / sigmoid(-1)
        window[first : last + 1] = number
        until = spans[number + 1][0] if number + 1 < len(spans) else count
        for row in range(last + 1, until):
            weight[row] = sigmoid((row - last) / (width - 1))
    return window, weight


def sweep(corpus: Sequence[Series], scores: Sequence[Array], profile: Profile) -> tuple[Array, Array]:
    """Score every threshold: thresholds, descending from infinity, and the normalised score at each.

    A row is detected from its score on; a NaN never is. Every detected row outside the windows is charged; a
    window earns its best detected row, or the loss of a miss. 100 is every window at its first row and
    nothing else, 0 is silence.
    """
    total = sum(series.windows for series in corpus)
    columns: list[tuple[Array, Array]] = []
    for series, score in zip(corpus, scores, strict=True):
        rows = np.arange(len(score))
        counted = np.flatnonzero((rows >= series.first_scored) & ~np.isnan(score))
        order = counted[np.argsort(-score[counted], kind="stable")]
        gain = series.weight[order] * profile.false_row
        for number in range(series.windows):
            inside = np.flatnonzero(series.window[order] == number)
            best = np.maximum.accumulate(series.weight[order[inside]] * profile.hit)
            gain[inside] = np.diff(best, prepend=-profile.missed)
        columns.append((score[order].astype(float), gain))
    height, gain = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    order = np.argsort(-height, kind="stable")
    height, raw = height[order], np.cumsum(gain[order])
    last = np.flatnonzero(np.diff(height, append=np.nan))
    thresholds = np.append(np.inf, height[last])
    return thresholds, 100 * np.append(0.0, raw[last]) / (total * (profile.hit + profile.missed))


def best_score(corpus: Sequence[Series], scores: Sequence[Array], profile: Profile) -> float:
    """Score the best threshold, as the benchmark publishes it: in-sample."""
    return float(sweep(corpus, scores, profile)[1].max())


def points_at(
    corpus: Sequence[Series], scores: Sequence[Array], profile: Profile, thresholds: Array
) -> Array:
    """Score some thresholds: float64 like them."""
    heights, points = sweep(corpus, scores, profile)
    return np.take(points, np.searchsorted(-heights, -thresholds, side="right") - 1)


def choose_threshold(corpus: Sequence[Series], scores: Sequence[Array], profile: Profile) -> float:
    """Find the threshold with the highest mean score over thresholds of two thirds to one and a half of it.

    The single best one is often a narrow peak, and loses more on other files.
    """
    steps = np.geomspace(1e-3, 1, 341)
    points = np.pad(points_at(corpus, scores, profile, steps), SMOOTHING_STEPS, mode="edge")
    means = np.lib.stride_tricks.sliding_window_view(points, 2 * SMOOTHING_STEPS + 1).mean(axis=1)
    return float(steps[means.argmax()])


def detect(series: Series) -> Array:
    """Run the detector under test."""
    return UnivariateDetector().score(series.time_ms, series.value)


def new_extreme(series: Series) -> Array:
    """Score by how far a value is beyond all before it, over the range."""
    high, low = np.maximum.accumulate(series.value), np.minimum.accumulate(series.value)
    beyond = np.diff(high, prepend=high[0]) - np.diff(low, prepend=low[0])
    score: Array = beyond / np.where(high > low, high - low, 1.0)
    return score


def clock(period: int) -> Callable[[Series], Array]:
    """Score 1 at every so many rows."""
    return lambda series: np.where(np.arange(len(series.value)) % period == 0, 1.0, np.nan)


def random_numbers(series: Series) -> Array:
    """Score without looking: exponential, the same for a file at every run."""
    return np.random.default_rng(crc32(series.name.encode())).exponential(0.03, len(series.value))


def halves(corpus: Sequence[Series]) -> tuple[Sequence[Series], Sequence[Series]]:
    """Cut the sorted corpus: the tuning half, the scored half."""
    return corpus[::2], corpus[1::2]


def held_out(corpus: Sequence[Series], method: Callable[[Series], Array], profile: Profile) -> Result:
    """Choose the threshold on the tuning half and score the other; the corpus in-sample beside it."""
    tuning, scored = halves(corpus)
    on_tuning, on_scored = [method(series) for series in tuning], [method(series) for series in scored]
    threshold = choose_threshold(tuning, on_tuning, profile)
    chosen = np.array([threshold])
    return Result(
        threshold=threshold,
        tuning=float(points_at(tuning, on_tuning, profile, chosen)[0]),
        scored=float(points_at(scored, on_scored, profile, chosen)[0]),
        all_in_sample=best_score([*tuning, *scored], [*on_tuning, *on_scored], profile),
    )


def best_clock(corpus: Sequence[Series], profile: Profile) -> Callable[[Series], Array]:
    """Choose a clock on the tuning half."""
    tuning, _ = halves(corpus)
    return clock(
        max(PERIODS, key=lambda n: best_score(tuning, [clock(n)(series) for series in tuning], profile))
    )


def main() -> None:
    """Print the figures."""
    corpus = read_corpus(Path(sys.argv[1]))
    print(f"{'':21}{'':18}threshold   tuning half   scored half   all, in-sample")
    for name, profile in PROFILES.items():
        methods = {
            "traffic detector": detect,
            "null: clock": best_clock(corpus, profile),
            "null: new extreme": new_extreme,
            "null: random": random_numbers,
        }
        for label, method in methods.items():
            result = held_out(corpus, method, profile)
            print(
                f"{name:21}{label:18}{result.threshold:9.3f}{result.tuning:14.1f}"
                f"{result.scored:14.1f}{result.all_in_sample:17.1f}"
            )


if __name__ == "__main__":
    main()
