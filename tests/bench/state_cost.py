"""What state costs: memory, snapshots, restore and the hot path, as keys grow.

python tests/bench/state_cost.py [KEYS ...]

For each number of keys (1,000 to 1,000,000 if none are given; 5,000,000 takes ten minutes and 8 GB), in a
process of its own: every key has sent one event, then more came with a heavy tail (Zipf, exponent 1.2), in
batches of 4,096. A snapshot of what changed comes after as many events as arrive
in 30 s at `RATE` events a second, in parts as they go to Kafka. All times are CPU time of one core.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from engine_speed import ROWS, reference
from traffic import MODEL

from detectors.batch import build_batch
from detectors.engine import Engine, EngineSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from detectors.base import Array
    from detectors.batch import EventBatch

SIZES = (1_000, 10_000, 100_000, 1_000_000)
INTERVAL_S = 30
RATE = 20_000
"""Events a second of one engine: a partition of a busy service."""
EXPONENT = 1.2
COLUMNS = (
    "keys",
    "hot B/key",
    "resident",
    "us/event",
    "changed",
    "full",
    "write s",
    "changed s",
    "longest",
    "restore s",
)


def cpu_s(action: Callable[[], object]) -> float:
    """Return the CPU seconds of an action."""
    start = time.process_time()
    action()
    return time.process_time() - start


class Traffic:
    """Events of many keys with a heavy tail."""

    def __init__(self, keys: int) -> None:
        self._rng = np.random.default_rng(0)
        self._names = self._rng.permutation(keys).astype(np.uint64)
        share = np.arange(1, keys + 1) ** -EXPONENT
        self._share = np.cumsum(share / share.sum())
        self._number = 0

    def batch(self, ranks: Array | None = None) -> EventBatch:
        """Make a batch of the keys of these ranks, or of drawn ones."""
        if ranks is None:
            ranks = np.searchsorted(self._share, self._rng.random(ROWS))
        count, self._number = len(ranks), self._number + 1
        key = self._names[np.minimum(ranks, len(self._names) - 1)]
        inputs = self._rng.standard_normal((count, 32), np.float32)
        return build_batch(
            key=np.stack([key, key], axis=1),
            time_ms=np.arange(count, dtype=np.int64) + 200 * self._number,
            model=np.zeros(count, np.int32),
            models=(MODEL,),
            topic="events",
            offset=np.arange(count, dtype=np.int64) + ROWS * self._number,
            input_sketch=inputs,
            embedding_sketch=inputs / 2,
            predicted_class=(inputs[:, 0] > 0).astype(np.int32),
            margin=self._rng.beta(8, 1.5, count).astype(np.float32),
        )


def resident_bytes() -> int:
    """Return what this process holds now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def write(parts: Iterable[tuple[str, bytes]]) -> tuple[dict[str, bytes], float, float]:
    """Return parts, the CPU seconds they took, and those of the longest step."""
    found, steps, start = {}, [], time.process_time()
    for name, part in parts:
        found[name] = part
        steps.append(time.process_time() - start)
        start = time.process_time()
    return found, sum(steps), max(steps)


def run(keys: int) -> None:
    """Measure one number of keys and print its line."""
    traffic = Traffic(keys)
    engine = Engine(EngineSettings(hot_keys=keys), {MODEL: reference()})
    warm = Engine(EngineSettings(hot_keys=ROWS), {MODEL: reference()})  # compiles, so that no step below does
    warm.process(Traffic(100).batch())
    warm.restore_parts(dict(warm.dump_parts(changed_only=False)))
    base = resident_bytes()
    for start in range(0, keys, ROWS):  # every key once, then ten times as many events as keys, at most 4M
        engine.process(traffic.batch(np.arange(start, min(start + ROWS, keys))))
    for _ in range(min(10 * keys, 4_000_000) // ROWS):
        engine.process(traffic.batch())
    resident = resident_bytes() - base
    stored, write_s, longest_s = write(engine.dump_parts(changed_only=False))
    spent_us = []
    for _ in range(INTERVAL_S * RATE // ROWS):
        batch = traffic.batch()
        begin_s = time.process_time()
        engine.process(batch)
        spent_us.append(1e6 * (time.process_time() - begin_s) / ROWS)
    changed, changed_s, longest_changed_s = write(engine.dump_parts(changed_only=True))
    sizes = [sum(map(len, parts.values())) / 1e6 for parts in (changed, stored)]
    stored, held = stored | changed, engine.state_bytes
    del engine  # so that the largest sizes need memory for one engine and its parts only
    other = Engine(EngineSettings(hot_keys=keys), {MODEL: reference()})
    restore_s = cpu_s(lambda: other.restore_parts(stored))
    if other.key_count != keys:
        raise SystemExit("the restored engine holds other keys")
    print(
        f"{keys:>10,}{held / keys:>11,.0f}{resident / 1e9:>9.2f}GB{np.median(spent_us):>10.2f}"
        f"{sizes[0]:>8,.0f}MB{sizes[1]:>6,.0f}MB{write_s:>9.2f}{changed_s:>11.2f}"
        f"{1e3 * max(longest_s, longest_changed_s):>7.0f}ms{restore_s:>11.2f}",
        flush=True,
    )


def main(arguments: list[str]) -> None:
    """Print a line for each number of keys, each from a process of its own."""
    if arguments[:1] == ["--one"]:
        run(int(arguments[1]))
        return
    print(f"Snapshots every {INTERVAL_S} s at {RATE:,} events a second; CPU time of one core")
    print(
        "".join(
            f"{name:>{width}}"
            for name, width in zip(COLUMNS, (10, 11, 11, 10, 10, 8, 9, 11, 9, 11), strict=True)
        )
    )
    for keys in map(int, arguments) if arguments else SIZES:
        subprocess.run([sys.executable, __file__, "--one", str(keys)], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
