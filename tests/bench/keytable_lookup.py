"""What a lookup in the key table costs: `python tests/bench/keytable_lookup.py`.

Batches of 4096 events, keys drawn evenly; the best of three rounds. `evicting`: about half of the keys of
every batch are new to a full table.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from detectors.keytable import KeyTable, memory_estimate_bytes

if TYPE_CHECKING:
    from detectors.base import Array

BATCH, BATCHES = 4096, 200


def measure(table: KeyTable, batches: list[Array]) -> float:
    """Return nanoseconds per event, of one pass."""
    epoch, model, time_ms = np.zeros(BATCH, np.uint16), np.zeros(BATCH, np.int32), np.arange(BATCH)
    started = perf_counter()
    for key in batches:
        table.lookup(key, epoch, model, time_ms)
    return (perf_counter() - started) / (BATCH * len(batches)) * 1e9


def main() -> None:
    """Print a line per size."""
    rng = np.random.default_rng(0)
    for capacity in (10_000, 100_000, 1_000_000):
        keys = rng.integers(0, 2**64, (2 * capacity, 2), np.uint64)
        table = KeyTable(capacity)
        batches = [keys[rng.integers(0, capacity, BATCH)] for _ in range(BATCHES)]
        measure(table, [keys[i : i + BATCH] for i in range(0, capacity - BATCH, BATCH)] + batches)
        known = min(measure(table, batches) for _ in range(3))
        batches = [keys[rng.integers(0, 2 * capacity, BATCH)] for _ in range(BATCHES)]
        evicting = min(measure(table, batches) for _ in range(3))
        size = memory_estimate_bytes(capacity, 0) / capacity
        print(f"{capacity:9,} keys: known {known:4.0f} ns, evicting {evicting:4.0f} ns, {size:.0f} B a key")


if __name__ == "__main__":
    main()
