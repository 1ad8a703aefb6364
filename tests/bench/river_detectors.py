"""Which of River's detectors, in which size, on which features?

`python tests/bench/river_detectors.py TRACES`: benign keys with an even number train, those with an odd
number and the attacks are scored. Prints memory, time per call, and the AUC of single attack events against
benign ones. The figures stand in `detectors.rivertier`.
"""

from __future__ import annotations

import sys
import tracemalloc
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from river import anomaly, drift
from scipy.stats import rankdata

from streams.traces import KeyTrace, read_trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from detectors.base import Array

ATTACKS = (
    "uniform",
    "knockoff_rand_fashion",
    "knockoff_rand_kmnist",
    "copycat_cifargray",
    "tramer_ls",
    "jbda",
)
FORESTS = [(t, h, 250) for t in (5, 10, 25) for h in (4, 6, 8)] + [(10, 4, 50), (10, 4, 1000), (25, 6, 50)]
Rows = list[dict[int, float]]


def columns(keys: list[KeyTrace], most: int) -> dict[str, Array]:
    """Join the first events of keys, as float32."""
    names = ("input_sketch", "embedding_sketch", "predicted_class", "top1", "margin", "entropy_nats")
    cut = [key.take(slice(0, most)) for key in keys]
    return {n: np.concatenate([getattr(k, n) for k in cut]).astype(np.float32) for n in names}


def distance(reference: dict[str, Array], sketch: str) -> Callable[[dict[str, Array]], Array]:
    """Return the Mahalanobis distance to the predicted class's centre."""
    classes = reference["predicted_class"].astype(int)
    centres = np.stack([reference[sketch][classes == c].mean(axis=0) for c in range(classes.max() + 1)])
    values, vectors = np.linalg.eigh(np.cov((reference[sketch] - centres[classes]).T))
    whitening = vectors / np.sqrt(values + 1e-6 * values.max())
    return lambda c: np.linalg.norm(
        (c[sketch] - centres[c["predicted_class"].astype(int)]) @ whitening, axis=1
    )


def measure(name: str, model: Any, train: Rows, benign: Rows, attacks: list[Rows]) -> None:
    """Train, score and print one line."""
    tracemalloc.start()
    for row in train[:500]:
        model.learn_one(row)
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    started = perf_counter()
    for row in train[500:]:
        model.learn_one(row)
    learned = perf_counter()
    ordinary = [model.score_one(row) for row in benign]
    scored = perf_counter()
    areas = []
    for rows in attacks:
        rank = rankdata(np.array(ordinary + [model.score_one(row) for row in rows]))
        n = len(rows)
        areas.append((rank[len(ordinary) :].sum() - n * (n + 1) / 2) / (n * len(ordinary)))
    print(
        f"{name:32s} {size / 1e3:6.0f} kB  learn {(learned - started) / len(train[500:]) * 1e6:5.1f} us  "
        f"score {(scored - learned) / len(benign) * 1e6:5.1f} us  " + " ".join(f"{a:.2f}" for a in areas)
    )


def outlier_factor(train: Rows) -> None:
    """Print the time of a local outlier factor's score, with few neighbours kept."""
    model = anomaly.LocalOutlierFactor(n_neighbors=10)
    for row in train[:60]:
        model.learn_one(row)
    started = perf_counter()
    for row in train[60:80]:
        model.score_one(row)
    print(f"local outlier factor, 60 kept: score {(perf_counter() - started) / 20 * 1e6:.0f} us")


class Spike:
    """The null line: six deviations above an exponentially weighted mean."""

    def __init__(self) -> None:
        self.mean, self.square, self.count = 0.0, 0.0, 0
        self.drift_detected = False

    def update(self, value: float) -> None:
        """Take in a value."""
        apart = value - self.mean
        self.drift_detected = self.count > 30 and apart > 6 * self.square**0.5
        share = 1 / min(self.count + 1, 200)
        self.mean, self.square = self.mean + share * apart, self.square + share * (apart**2 - self.square)
        self.count += 1


class Quantile:
    """River's quantile filter over the value itself."""

    def __init__(self) -> None:
        self.filter = anomaly.QuantileFilter(
            anomaly.GaussianScorer(), q=0.9999, protect_anomaly_detector=False
        )
        self.drift_detected = False

    def update(self, value: float) -> None:
        """Take in a value."""
        score = self.filter.score_one(None, value)
        self.drift_detected = self.filter.classify(score)
        self.filter.learn_one(None, value)


DRIFT: dict[str, Callable[[], Any]] = {
    "ADWIN": lambda: drift.ADWIN(delta=1e-4),
    "Page-Hinkley": lambda: drift.PageHinkley(threshold=5.0),
    "KSWIN": lambda: drift.KSWIN(alpha=1e-5, seed=1),
    "quantile filter": Quantile,
    "six deviations": Spike,
}
BLOCK = 50
"""Events of a model that are averaged to one value."""


def aggregates(keys: list[KeyTrace], attack: KeyTrace, far: Callable[[dict[str, Array]], Array]) -> None:
    """Print drift detectors on a whole model: false alarms on honest traffic, and delay of an attack."""
    every = columns(keys, 5000)
    order = np.argsort(np.concatenate([key.take(slice(0, 5000)).time_ms for key in keys]), kind="stable")
    ordinary = np.log(far(every)[order])
    odd = np.log(far(columns([attack], 6000)))
    half = len(ordinary) // 2
    mixed = ordinary.copy()
    mixed[half::4] = np.resize(odd, len(mixed[half::4]))
    for name, make in DRIFT.items():
        alarms: list[list[int]] = []
        tracemalloc.start()
        started = perf_counter()
        for series in (ordinary, mixed):
            model, blocks = make(), series[: len(series) // BLOCK * BLOCK].reshape(-1, BLOCK).mean(axis=1)
            alarms.append([])
            for number, value in enumerate(blocks.tolist()):
                model.update(value)
                if model.drift_detected:
                    alarms[-1].append(number * BLOCK)
        spent = (perf_counter() - started) / (2 * len(blocks))
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        later = [place - half for place in alarms[1] if place >= half]
        print(
            f"whole model, {name:15s} {size / 1e3:6.1f} kB, update {spent * 1e6:6.1f} us, "
            f"{len(alarms[0])} alarms in {len(ordinary):,} honest events, "
            f"a quarter Knockoff after {later[0] if later else 'never'} events"
        )


def main(folder: Path) -> None:
    """Print the comparison."""
    rng = np.random.default_rng(0)
    keys = read_trace(folder / "mnist__benign__s501.npz")
    reference = columns([k for k in keys if k.number % 2 == 0], 200)
    others = [columns([k for k in keys if k.number % 2 == 1], 100)]
    for attack in ATTACKS:
        others.append(columns(read_trace(folder / f"mnist__{attack}__s11.npz"), 2000))
        others[-1] = {name: column[150:] for name, column in others[-1].items()}
    far = [distance(reference, sketch) for sketch in ("input_sketch", "embedding_sketch")]
    features: dict[str, Callable[[dict[str, Array]], Array]] = {
        "sketch": lambda c: c["input_sketch"],
        "scores": lambda c: np.stack(
            [*(f(c) for f in far), c["top1"], c["margin"], c["entropy_nats"]], axis=1
        ),
    }
    for name, feature in features.items():
        low, high = np.quantile(feature(reference), [0.005, 0.995], axis=0)
        sets: list[Rows] = []
        for source, most in zip([reference, *others], [2500, 1500] + [400] * len(ATTACKS), strict=True):
            unit = np.clip((feature(source) - low) / (high - low), 0, 1)
            sets.append([dict(enumerate(r)) for r in unit[rng.permutation(len(unit))[:most]].tolist()])
        train, benign, *attacks = sets
        for trees, height, size in FORESTS:
            forest = anomaly.HalfSpaceTrees(n_trees=trees, height=height, window_size=size, seed=1)
            measure(f"{name}, forest {trees} x {height}, {size}", forest, train, benign, attacks)
        measure(f"{name}, one-class SVM", anomaly.OneClassSVM(nu=0.1), train, benign, attacks)
    outlier_factor(train)
    odd = [k for k in keys if k.number % 2 == 1]
    aggregates(odd, read_trace(folder / "mnist__knockoff_rand_kmnist__s11.npz")[0], far[0])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
