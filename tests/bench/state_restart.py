"""What snapshots cost and how soon a worker processes again, on a real broker.

python tests/bench/state_restart.py [--keys 1000000] [--partitions 8] [--rate 20000]

Fills pipelines with keys of a heavy tail (Zipf 1.2, each at least once), stores a first, whole snapshot;
then for three intervals of 30 s of traffic at the given rate, stores what changed; then gives the
partitions to a fresh worker and measures until it has restored all and processed an event of each.
CPU-seconds are of the process, all threads. "Longest stall": that the event loop did not turn meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

import numpy as np
import structlog

sys.path.insert(0, str(Path(__file__).parents[1] / "detectors"))
from traffic import MODEL, honest

from detectors.batch import build_batch
from detectors.calibration import fit_reference
from detectors.engine import EngineSettings
from streams.localkafka import LocalKafka
from streams.metrics import Metrics
from streams.outputs import OutputWriter
from streams.pipeline import build_pipeline
from streams.settings import Settings
from streams.state import FencedState
from streams.statestore import StateStore
from streams.topics import create_topics
from streams.watchdog import resident_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from detectors.batch import EventBatch
    from detectors.reference import ModelReference
    from streams.pipeline import Pipeline

INTERVAL_S = 30
INTERVALS = 3
ROWS = 4096
BARS = {"snapshot_ratio": 0.05, "restart_s": 5.0}


class Measure:
    """CPU and wall seconds of what is done inside, and the longest stall of the event loop."""

    async def __aenter__(self) -> Self:
        self.stall_s = 0.0
        self._ticker = asyncio.create_task(self._tick())
        self._cpu, self._wall = time.process_time(), time.perf_counter()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cpu_s = time.process_time() - self._cpu
        self.wall_s = time.perf_counter() - self._wall
        self._ticker.cancel()

    async def _tick(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            self.stall_s = max(self.stall_s, time.perf_counter() - before - 0.001)


def draw_batch(rng: np.random.Generator, keys: np.ndarray[Any, Any], number: int) -> EventBatch:
    """Make one batch of events of these keys."""
    rows = len(keys)
    inputs = rng.standard_normal((rows, 32)).astype(np.float32)
    return build_batch(
        key=np.stack([keys, keys], axis=1).astype(np.uint64),
        time_ms=np.arange(rows, dtype=np.int64) + 1000 * number,
        model=np.zeros(rows, np.int32),
        models=(MODEL,),
        topic="events",
        offset=np.arange(rows, dtype=np.int64) + ROWS * number,
        input_sketch=inputs,
        predicted_class=(inputs[:, 0] > 0).astype(np.int32),
        margin=rng.beta(8, 1.5, rows).astype(np.float32),
    )


def feed(pipeline: Pipeline, keys: int, events: int | None, rng: np.random.Generator) -> None:
    """Process every key once, in any order, or so many events of a heavy tail of keys."""
    if events is None:
        order = rng.permutation(keys)
    else:
        order = np.minimum(rng.zipf(1.2, events) - 1, rng.integers(0, keys, events))
    for number, start in enumerate(range(0, len(order), ROWS)):
        pipeline.process_batch(draw_batch(rng, order[start : start + ROWS], number))


class Worker:
    """Fenced state as a worker holds it, without Faust."""

    def __init__(self, settings: Settings, references: Mapping[str, ModelReference]) -> None:
        def build(settings: Settings) -> Pipeline:
            return build_pipeline(settings, references=references)

        self.store, self.writer = StateStore(settings), OutputWriter(settings)
        self.state = FencedState(settings, build, self.writer, self.store, Metrics())

    async def __aenter__(self) -> Self:
        await self.writer.start()
        await self.store.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.writer.stop()
        await self.store.stop()

    def feed(self, keys: int, events: int | None, rng: np.random.Generator) -> None:
        """Give every partition its share of keys and events."""
        share = len(self.state.partitions)
        for state in self.state.partitions.values():
            feed(state.pipeline, keys // share, None if events is None else events // share, rng)
            state.changed = True


async def run(settings: Settings, keys: int, partitions: int, rate: int) -> bool:
    """Measure and print; tell whether both bars are met."""
    references = {MODEL: fit_reference(MODEL, [honest(number) for number in range(80)])}
    rng = np.random.default_rng(0)
    ratios = []
    async with Worker(settings, references) as worker:
        await worker.state.assign(range(partitions), 1)
        worker.feed(keys, None, rng)
        held = sum(s.pipeline.engine.key_count for s in worker.state.partitions.values())
        print(f"{held:,} keys in {partitions} partitions, {resident_bytes() / 1e9:.2f} GB resident")
        for number in range(INTERVALS + 1):
            if number:
                worker.feed(keys, rate * INTERVAL_S, rng)
            async with Measure() as spent:
                await worker.state.snapshot_all()
            written = stored_bytes(worker)
            ratios.append(spent.cpu_s / INTERVAL_S)
            print(
                f"{'whole' if not number else 'changed'} snapshot: {written / 1e6:,.0f} MB, "
                f"{spent.cpu_s:.2f} CPU-s ({written / 1e6 / spent.cpu_s:,.0f} MB per CPU-s), "
                f"{100 * ratios[-1]:.1f} % of a core at {INTERVAL_S} s; {spent.wall_s:.1f} s wall, "
                f"longest stall {1000 * spent.stall_s:.0f} ms"
            )
    async with Worker(settings, references) as worker:
        async with Measure() as spent:
            await worker.state.assign(range(partitions), 2)
            for state in worker.state.partitions.values():
                state.pipeline.process_batch(draw_batch(rng, rng.integers(0, 1000, 1), 0))
        size = sum(
            state.found.manifests[0].size_bytes
            for state in worker.state.partitions.values()
            if state.found is not None
        )
        print(
            f"restart: {size / 1e6:,.0f} MB, {spent.cpu_s:.2f} CPU-s ({size / 1e6 / spent.cpu_s:,.0f} MB per "
            f"CPU-s), processing again after {spent.wall_s:.1f} s wall, longest stall "
            f"{1000 * spent.stall_s:.0f} ms"
        )
    snapshot_ratio = float(np.median(ratios[1:]))
    met = snapshot_ratio <= BARS["snapshot_ratio"], spent.cpu_s <= BARS["restart_s"]
    print(
        f"snapshots at most {100 * BARS['snapshot_ratio']:.0f} % of a core: {'met' if met[0] else 'NOT MET'}"
    )
    print(f"restart within {BARS['restart_s']:.0f} s of an idle core: {'met' if met[1] else 'NOT MET'}")
    return all(met)


def stored_bytes(worker: Worker) -> int:
    """Bytes of the parts that the newest snapshots wrote."""
    total = 0
    for state in worker.state.partitions.values():
        before = {entry.offsets for entry in state.shelf.before.values()}
        total += sum(e.size_bytes for e in state.shelf.newest.values() if e.offsets not in before)
    return total


def main() -> None:
    """Run on a broker of its own, or on the one in MODELWARDEN_KAFKA; exit code 1 if a bar is not met."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--partitions", type=int, default=8)
    parser.add_argument("--rate", type=int, default=20_000, help="events a second")
    chosen = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    with tempfile.TemporaryDirectory(prefix="state-restart-") as folder:
        node = LocalKafka(Path(folder)) if "MODELWARDEN_KAFKA" not in os.environ else None
        address = os.environ["MODELWARDEN_KAFKA"] if node is None else node.start()
        prefix = f"restart-{uuid4().hex[:8]}."
        create_topics(address, prefix=prefix, partitions=chosen.partitions)
        settings = Settings(
            kafka=address,
            topic_prefix=prefix,
            engine=EngineSettings(hot_keys=-(-chosen.keys // chosen.partitions)),
        )
        try:
            met = asyncio.run(run(settings, chosen.keys, chosen.partitions, chosen.rate))
        finally:
            if node is not None:
                node.stop()
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
