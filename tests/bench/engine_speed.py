"""Cost of detection: CPU time per event and bytes per key.

python tests/bench/engine_speed.py [KEYS]

Synthetic keys with a heavy tail (Zipf 1.2), batches of 4,096 events, all signals, a reference at hand. Median
over batches after a warm-up, one thread.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "detectors"))
from traffic import MODEL

from detectors.batch import build_batch, concatenate
from detectors.calibration import fit_reference
from detectors.engine import Engine, EngineSettings
from detectors.keystate import COLD_ROW, FIELDS
from detectors.slabs import slot_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from detectors.batch import EventBatch
    from detectors.reference import ModelReference

ROWS = 4096
BATCHES, WARM_UP = 160, 40
REFERENCE_KEYS = 80


def make_batches(keys: int, count: int) -> Iterator[EventBatch]:
    """Draw batches of `ROWS` events of honest keys that differ; a few send most, and many of them one."""
    rng = np.random.default_rng(0)
    mean = 0.3 * rng.standard_normal((keys + 1, 32), np.float32)
    hard = 1 + rng.random(keys + 1)
    for number in range(count):
        key = np.minimum(rng.zipf(1.2, ROWS), keys)
        inputs = mean[key] + rng.standard_normal((ROWS, 32), np.float32)
        yield build_batch(
            key=np.stack([key, key], axis=1).astype(np.uint64),
            time_ms=np.arange(ROWS, dtype=np.int64) + 1000 * number,
            model=np.zeros(ROWS, np.int32),
            models=(MODEL,),
            topic="events",
            offset=np.arange(ROWS, dtype=np.int64) + ROWS * number,
            input_sketch=inputs,
            embedding_sketch=inputs / 2,
            predicted_class=(inputs[:, 0] > 0).astype(np.int32) + 2 * (inputs[:, 1] > 0).astype(np.int32),
            margin=rng.beta(8, hard[key]).astype(np.float32),
        )


def reference() -> ModelReference:
    """Learn from 80 keys of such traffic, the busiest among them."""
    seen = concatenate(list(make_batches(REFERENCE_KEYS, 10)))
    own = [(seen.key[:, 0] == key).nonzero()[0] for key in range(1, REFERENCE_KEYS + 1)]
    return fit_reference(MODEL, [seen.take(rows) for rows in own])


def measure(keys: int, batches: int = BATCHES) -> tuple[float, Engine]:
    """Return the median CPU time of an event in us, after a warm-up, and the engine."""
    engine = Engine(EngineSettings(hot_keys=keys), {MODEL: reference()})
    spent_us = []
    for batch in make_batches(keys, batches):
        start_ns = time.process_time_ns()
        engine.process(batch)
        spent_us.append((time.process_time_ns() - start_ns) / 1000 / ROWS)
    return float(np.median(spent_us[WARM_UP:])), engine


def main() -> None:
    """Print the figures."""
    spent_us, engine = measure(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
    print(f"{spent_us:.2f} us of CPU an event, {engine.key_count:,} keys seen")
    print(f"{slot_bytes(FIELDS):,} B a hot key, {COLD_ROW.itemsize} B a cold one (its index apart)")


if __name__ == "__main__":
    main()
