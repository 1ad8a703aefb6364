"""Our engine beside PRADA, River's half-space trees and a plain online test, in one run.

python tests/bench/compare_detectors.py [TRACES]

Cost on the synthetic traffic of `engine_speed.py`: CPU time per event (median over batches), bytes per key.
With a folder of traces also, for MNIST: the share of honest keys alarmed, and the query at which attacks are
found. Thresholds and references come from honest keys with an even number, the share from the odd ones.

engine  as it is; an alarm is a notice (1 % of honest keys in their lifetime)
PRADA   as published, W < 0.95 (`detectors.prada`); bytes of a key after 1,000 queries
River   one half-space forest, score and learn per event, per key a running mean (horizon 20) that counts from
        the 31st event on; alarms at the quantile that 1 % of the even keys exceed
pilot   the prototype: eight scores with fifteen bets each, twice, a ring of 256 SimHashes,
        64 random Fourier features; cost only
plain   p-values of distance and hardness against honest events, bets on them, an alarm at evidence 1e6: sound
        if honest keys were all alike
"""

from __future__ import annotations

import sys
import time
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from engine_speed import ROWS, make_batches, measure, reference
from river.anomaly import HalfSpaceTrees

from detectors.calibration import fit_reference
from detectors.engine import Engine, EngineSettings
from detectors.evidence import EXPERTS, bet_table, p_values, update
from detectors.kernelcache import njit
from detectors.keystate import FIELDS
from detectors.prada import Prada, first_alarm
from detectors.signals.out_of_distribution import distances
from detectors.slabs import slot_bytes
from streams.traces import read_trace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from detectors.base import Array
    from detectors.batch import EventBatch
    from detectors.reference import EventReference

    Judges = Callable[[Sequence[EventBatch]], Callable[[EventBatch], int | None]]

KEYS = 100_000
ATTACKS = (
    *("uniform", "copycat_cifargray", "knockoff_rand_kmnist", "tramer_ls"),
    *("tramer_nat", "jbda", "trnd_ifgsm", "square"),
)
FIRST_QUERIES = 2000
RIVER_HORIZON, RIVER_FIRST = 20, 31
PLAIN_LOG10 = 6.0


class Cost(NamedTuple):
    """CPU time of an event and bytes of a key."""

    event_us: float
    key_bytes: float


def first(reached: Array) -> int | None:
    """Return the number, from one, of the first true entry."""
    rows = np.flatnonzero(reached)
    return int(rows[0]) + 1 if len(rows) else None


def engine_cost() -> Cost:
    """Measure the engine."""
    return Cost(measure(KEYS)[0], slot_bytes(FIELDS))


def engine_on(honest: Sequence[EventBatch]) -> Callable[[EventBatch], int | None]:
    """Learn from honest keys; the engine then sees one key after the other."""
    model = honest[0].models[0]
    engine = Engine(EngineSettings(), {model: fit_reference(model, honest)})

    def judge(batch: EventBatch) -> int | None:
        alerts = [alert for alert in engine.process(batch) if alert.subject == "key"]
        return alerts[0].query_count if alerts else None

    return judge


def per_event(observe: Callable[[Array, int, int], object], batches: int) -> float:
    """Measure a detector that is called with a query, its class and its key."""
    spent_us = []
    for batch in make_batches(KEYS, batches):
        rows = list(
            zip(batch.input_sketch, batch.predicted_class.tolist(), batch.key[:, 0].tolist(), strict=True)
        )
        start_ns = time.process_time_ns()
        for row in rows:
            observe(*row)
        spent_us.append((time.process_time_ns() - start_ns) / 1000 / ROWS)
    return float(np.median(spent_us))


def prada_cost() -> Cost:
    """Measure PRADA over its first events; it gets slower from then on."""
    detectors: dict[int, Prada] = {}

    def observe(query: Array, label: int, key: int) -> None:
        detectors.setdefault(key, Prada()).observe(query, label)

    one, rng = Prada(), np.random.default_rng(0)
    for _ in range(1000):
        one.observe(rng.standard_normal(32).astype(np.float32), int(rng.integers(0, 4)))
    return Cost(per_event(observe, 8), one.nbytes)


def prada_on(honest: Sequence[EventBatch]) -> Callable[[EventBatch], int | None]:  # noqa: ARG001 - it learns nothing
    """Judge as published."""
    return lambda batch: first_alarm(batch.input_sketch, batch.predicted_class)


def forest() -> HalfSpaceTrees:
    """Make a forest for inputs scaled to [0, 1]."""
    return HalfSpaceTrees(n_trees=15, height=8, window_size=250, seed=1)


def river_cost() -> Cost:
    """Measure one forest for all keys; its size is told as if each key had its own."""
    tracemalloc.start()
    trees = forest()
    trees.learn_one(dict.fromkeys(range(32), 0.5))
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()

    def observe(query: Array, label: int, key: int) -> None:  # noqa: ARG001 - sees the input alone
        row = dict(enumerate((query / 8 + 0.5).tolist()))
        trees.score_one(row)
        trees.learn_one(row)

    return Cost(per_event(observe, 4), size)


def river_on(honest: Sequence[EventBatch]) -> Callable[[EventBatch], int | None]:
    """Learn from honest keys; threshold at the running mean that one key in a hundred of them exceeds."""
    rows = np.concatenate([batch.input_sketch for batch in honest])
    low, high = np.quantile(rows, [0.005, 0.995], axis=0)
    trees = forest()

    def scaled(inputs: Array) -> list[dict[int, float]]:
        return [dict(enumerate(row)) for row in np.clip((inputs - low) / (high - low), 0, 1).tolist()]

    for row in scaled(np.random.default_rng(0).permutation(rows)[:4000]):
        trees.learn_one(row)

    def means(batch: EventBatch) -> Array:
        mean, path = 0.0, []
        for number, row in enumerate(scaled(batch.input_sketch), 1):
            mean += (trees.score_one(row) - mean) / min(number, RIVER_HORIZON)
            path.append(mean if number >= RIVER_FIRST else 0.0)
        return np.array(path)

    threshold = np.quantile([means(batch).max() for batch in honest], 0.99)
    return lambda batch: first(means(batch) > threshold)


def plain_p(batch: EventBatch, event: EventReference) -> Array:
    """Return the p-values of input distance and hardness, float32 (n, 2)."""
    far = distances(event, batch.input_sketch, batch.embedding_sketch, batch.predicted_class)[:, 0]
    tables = event.distance_table, event.hardness_table
    one = np.ones(len(batch), np.float32)
    scores = far, 1 - batch.margin
    return np.stack(
        [p_values(score, table, one) for score, table in zip(scores, tables, strict=True)], axis=1
    )


def plain_cost() -> Cost:
    """Measure the plain test in batches, its slab at hand."""
    event, slab = reference().event, np.zeros((KEYS + 1, 2, EXPERTS), np.float32)
    spent_us = []
    for batch in make_batches(KEYS, 20):
        start_ns = time.process_time_ns()
        update(plain_p(batch, event), batch.key[:, 0].astype(np.int64), slab)
        spent_us.append((time.process_time_ns() - start_ns) / 1000 / ROWS)
    return Cost(float(np.median(spent_us)), slab[0].nbytes)


def plain_on(honest: Sequence[EventBatch]) -> Callable[[EventBatch], int | None]:
    """Bet against honest events."""
    event = fit_reference("plain", honest).event

    def judge(batch: EventBatch) -> int | None:
        slab = np.zeros((1, 2, EXPERTS), np.float32)
        won = update(plain_p(batch, event), np.zeros(len(batch), np.int64), slab)
        return first(won.max(axis=1, initial=-np.inf, where=np.isfinite(won)) >= PLAIN_LOG10)

    return judge


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator] # numba has no types
def _pilot(  # noqa: PLR0917 - a kernel
    slots: Array,
    bins: Array,
    inputs: Array,
    table: Array,
    state: Array,
    ring: Array,
    rff: Array,
    planes: Array,
) -> None:
    """Do for each event what the prototype did; its verdicts are of no interest here."""
    bits = np.uint64(1)
    for i in range(len(slots)):
        k = slots[i]
        for s in range(bins.shape[1]):
            for j in range(EXPERTS):
                e = table[bins[i, s], j]
                state[k, 0, s, j] = min(state[k, 0, s, j] * e, np.float32(1e30))
                state[k, 1, s, j] = min((state[k, 1, s, j] + np.float32(1)) * e, np.float32(1e30))
        mine, least = np.uint64(bins[i].sum()) * np.uint64(0x9E3779B97F4A7C15), np.uint64(64)
        for q in range(ring.shape[1]):
            x = ring[k, q] ^ mine
            x -= (x >> bits) & np.uint64(0x5555555555555555)
            x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
            x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
            least = min(least, (x * np.uint64(0x0101010101010101)) >> np.uint64(56))
        ring[k, (i + least) % 256] = mine
        for f in range(64):
            angle = np.float32(0)
            for d in range(32):
                angle += inputs[i, d] * planes[f, d]
            rff[k, f] += np.cos(angle)


def pilot_cost() -> Cost:
    """Measure the prototype's arithmetic in batches."""
    state = np.ones((KEYS + 1, 2, 8, EXPERTS), np.float32)
    ring, rff = np.zeros((KEYS + 1, 256), np.uint64), np.ones((KEYS + 3, 64), np.float32)
    table, planes = bet_table(), np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    spent_us = []
    for batch in make_batches(KEYS, 20):
        bins = np.clip(np.abs(batch.input_sketch[:, :8]) * 60, 0, 255).astype(np.int64)
        start_ns = time.process_time_ns()
        _pilot(batch.key[:, 0].astype(np.int64), bins, batch.input_sketch, table, state, ring, rff, planes)
        spent_us.append((time.process_time_ns() - start_ns) / 1000 / ROWS)
    return Cost(float(np.median(spent_us)), state[0].nbytes + ring[0].nbytes + rff[0].nbytes)


DETECTORS: dict[str, tuple[Callable[[], Cost], Judges | None]] = {
    "engine": (engine_cost, engine_on),
    "PRADA": (prada_cost, prada_on),
    "River": (river_cost, river_on),
    "pilot": (pilot_cost, None),
    "plain": (plain_cost, plain_on),
}


def main(folder: Path | None) -> None:
    """Print the table."""
    print(f"{'':8}{'us/event':>10}{'B/key':>10}" + ("" if folder is None else "  honest keys alarmed"))
    even: list[EventBatch] = []
    odd: list[EventBatch] = []
    attacks: dict[str, EventBatch] = {}
    if folder is not None:
        for key in read_trace(folder / "mnist__benign__s501.npz"):
            (odd if key.number % 2 else even).append(key.take(slice(0, FIRST_QUERIES)).batch())
        for name in ATTACKS:
            (attack,) = read_trace(folder / f"mnist__{name}__s11.npz")
            attacks[name] = attack.take(slice(0, FIRST_QUERIES)).batch()
    for name, (cost, prepare) in DETECTORS.items():
        event_us, key_bytes = cost()
        line = f"{name:8}{event_us:10.2f}{key_bytes:10,.0f}"
        if folder is not None and prepare is not None:
            judge = prepare(even)
            alarmed = [judge(batch) is not None for batch in odd]
            found = ", ".join(f"{attack} {judge(batch) or '-'}" for attack, batch in attacks.items())
            line += f"{np.mean(alarmed):8.1%}  {found}"
        print(line)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
