"""What an event costs by how many are processed at once: the whole pipeline, without a broker.

python tests/bench/chunk_cost.py [--format columns] [--rounds 5] [EVENTS ...]

Events of the throughput benchmark, one partition of them, decoded, scored and judged in chunks of about so
many, again and again; every size has a pipeline of its own, and they take turns. The first round, in which
keys are new, is not counted.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

sys.path.insert(0, str(Path(__file__).parent / "throughput"))
from bench_traffic import MICRO_BATCH, messages

import streams.samples
from sinks.serving.formats import COLUMNS, FORMAT_HEADER
from streams.bus.base import Message
from streams.pipeline import build_pipeline
from streams.recordblock import pack_messages
from streams.settings import Settings

if TYPE_CHECKING:
    from streams.pipeline import Pipeline
    from streams.recordblock import RecordBlock

PARTITION, COUNT = 0, 1_500_000
"""Events over all partitions; an eighth or so is processed."""


def chunks(event_format: str, values: list[bytes], events: int) -> list[RecordBlock]:
    """Cut messages into chunks of about so many events, as a fetch would bring them."""
    size = max(events // MICRO_BATCH, 1) if event_format == "columns" else events
    headers = ((FORMAT_HEADER, COLUMNS),) if event_format == "columns" else ()
    found = [
        Message(topic="events", partition=PARTITION, offset=at, value=value, headers=headers)
        for at, value in enumerate(values)
    ]
    return [pack_messages(found[at : at + size], "events") for at in range(0, len(found) - size + 1, size)]


def spend_us(pipeline: Pipeline, blocks: list[RecordBlock]) -> float:
    """Process chunks; return the CPU time of an event."""
    start = time.process_time()
    events = sum(pipeline.process(block).events for block in blocks)
    return 1e6 * (time.process_time() - start) / events


@click.command()
@click.argument("sizes", nargs=-1, type=int)
@click.option("--format", "event_format", default="json", type=click.Choice(["json", "columns"]))
@click.option("--rounds", default=5, show_default=True)
def main(sizes: tuple[int, ...], event_format: str, rounds: int) -> None:
    """Print the median CPU time of an event for each chunk size."""
    values = [value for place, _, value in messages(COUNT, event_format) if place == PARTITION]
    settings = Settings(references_path=Path(str(streams.samples.__file__)).parent)
    cases = {
        size: (build_pipeline(settings, live=False), chunks(event_format, values, size))
        for size in sizes or (1024, 2048, 4096, 8192, 16384)
    }
    spent: dict[int, list[float]] = {size: [] for size in cases}
    for _ in range(rounds + 1):
        for size, (pipeline, blocks) in cases.items():
            spent[size].append(spend_us(pipeline, blocks))
    for size, figures in spent.items():
        later = figures[1:]
        print(
            f"{size:7,} events a chunk: {statistics.median(later):.2f} us an event, {min(later):.2f} at best"
        )


if __name__ == "__main__":
    main()
