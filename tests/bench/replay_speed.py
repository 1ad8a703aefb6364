"""How fast a replay is, beside the engine alone on the same events: the share of the engine's own speed.

Run as `python tests/bench/replay_speed.py [--events 5000000]`. Events are simulated once into a file. Both
run in turns, cut into the same batches: the engine on batches that are decoded already, the replay from the
file, with decoding and policy. Times are of the process's own processor, all threads; the clock on the wall
is shown beside. With --file the file is kept for the next run.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from detectors.engine import Engine
from streams.cli.progress import show_progress
from streams.codec import decode_events
from streams.eventfile import read_event_file
from streams.pipeline import build_pipeline
from streams.places import open_writer
from streams.replay import BATCH_MESSAGES, Replay, _batches_of
from streams.samples import load_references, load_sample
from streams.settings import Settings
from streams.simulate import Plan, Simulation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from detectors.batch import EventBatch

BAR = 0.8
MAX_LINE_BYTES = 1_048_576
SETTINGS = Settings()


def make(path: Path, events: int) -> None:
    simulation = Simulation(Plan(events=events, seed=1), load_sample())
    with open_writer(path) as file, show_progress("Simulating", events, "events") as tell:
        for number, (_, value) in enumerate(simulation.events()):
            file.write(value + b"\n")
            if number % 50_000 == 0:
                tell(number)


def batches(path: Path) -> Iterator[EventBatch]:
    blocks = (block for block, _ in read_event_file(path, max_line_bytes=MAX_LINE_BYTES))
    for messages in _batches_of(blocks, None):
        batch, _ = decode_events(messages, "events")
        if batch is not None:
            yield batch


def timed(work: Callable[[], object]) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def engine_alone(path: Path) -> tuple[float, float]:
    engine = Engine(SETTINGS.engine, load_references())
    cpu = wall = 0.0
    for batch in batches(path):
        one = timed(lambda batch=batch: engine.process(batch))  # type: ignore[misc]  # bound here on purpose
        cpu, wall = cpu + one[0], wall + one[1]
    return cpu, wall


def replay(path: Path) -> tuple[float, float]:
    made = Replay(lambda: build_pipeline(SETTINGS, live=False, references=load_references()))
    return timed(lambda: made.files([path], MAX_LINE_BYTES))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--file", type=Path, help="events to use, or to make and keep")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.file or Path(folder) / "events.jsonl"
        if not path.exists():
            make(path, options.events)
        with path.open("rb") as file:
            events = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 24), b""))
        warm = Replay(lambda: build_pipeline(SETTINGS, live=False, references=load_references()))
        warm.files([path], MAX_LINE_BYTES, last=BATCH_MESSAGES)
        ratios = []
        for number in range(1, options.rounds + 1):
            alone, whole = engine_alone(path), replay(path)
            ratios.append((alone[0] / whole[0], alone[1] / whole[1]))
            print(
                f"round {number}: engine alone {1e6 * alone[0] / events:.2f} us CPU an event, "
                f"replay {1e6 * whole[0] / events:.2f} us CPU ({events / whole[1]:,.0f} events/s on the wall)"
            )
        cpu, wall = (statistics.median(column) for column in zip(*ratios, strict=True))
        verdict = "met" if cpu >= BAR else "missed"
        print(f"{events:,} events: replay runs at {cpu:.0%} of the engine's speed by CPU time, {wall:.0%} on")
        print(f"the wall. Bar {BAR:.0%}: {verdict}.")


if __name__ == "__main__":
    main()
