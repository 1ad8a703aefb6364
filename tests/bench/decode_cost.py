"""What it costs to decode an event, by format and by the codec of the record batches.

    python tests/bench/decode_cost.py [--events 100000]

Recorded events, made once, in record batches of 64 KiB; medians over chunks of CPU time, one thread, three
rounds.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from statistics import median
from struct import pack_into
from typing import TYPE_CHECKING

import click
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent / "throughput"))
from bench_traffic import keyed

from sinks.serving.event import encode_event
from sinks.serving.formats import COLUMNS, FORMAT_HEADER, RECORD, encode_columns, encode_record
from streams.codec import decode_events
from streams.faustbatch.unpack import unpack_fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sinks.records import ServingEvent

CHUNK, BATCH_BYTES, ROUNDS = 4096, 64 * 1024, 3
CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


def pack(values: Sequence[bytes], event_format: bytes | None, codec: str = "none") -> bytes:
    """Return messages as record batches, as a fetch brings them."""
    headers = [] if event_format is None else [(FORMAT_HEADER, event_format)]
    batches: list[list[bytes]] = [[]]
    for value in values:
        if batches[-1] and sum(map(len, batches[-1])) + len(value) > BATCH_BYTES:
            batches.append([])
        batches[-1].append(value)
    packed, base = [], 0
    for batch in batches:
        builder = DefaultRecordBatchBuilder(2, CODECS[codec], 0, -1, -1, -1, 1 << 30)
        for place, value in enumerate(batch):
            builder.append(place, timestamp=1, key=None, value=value, headers=headers)
        built = bytearray(builder.build())
        pack_into(">q", built, 0, base)  # the broker says where a batch begins
        packed.append(bytes(built))
        base += len(batch)
    return b"".join(packed)


def measure(work: Callable[[bytes], int], fetches: Sequence[bytes]) -> float:
    """Return the median CPU time of an event in ns; `work` returns how many events a fetch held."""
    spent = []
    for _ in range(ROUNDS):
        for fetch in fetches:
            start_ns = time.thread_time_ns()
            count = work(fetch)
            spent.append((time.thread_time_ns() - start_ns) / count)
    return median(spent)


def unpack(fetch: bytes) -> int:
    """Find the records."""
    block = unpack_fetch("events", 0, fetch, 0).block
    return 0 if block is None else len(block)


def decode(fetch: bytes) -> int:
    """Find the records, and make columns of their events."""
    block = unpack_fetch("events", 0, fetch, 0).block
    batch, refused = (None, []) if block is None else decode_events(block, "events")
    if batch is None or refused:
        raise AssertionError("an event of our own was refused: a defect of the program")
    return len(batch)


def chunks(events: Sequence[ServingEvent], size: int) -> list[list[ServingEvent]]:
    """Cut events in whole chunks."""
    return [list(events[start : start + size]) for start in range(0, len(events) - size + 1, size)]


@click.command()
@click.option("--events", default=100_000, show_default=True, help="Events of each kind.")
def main(events: int) -> None:
    """Print what decoding costs."""
    made = [event for _, event in keyed(events)]
    table = Table("step", "ns an event", title=f"Chunks of {CHUNK:,} events")
    table.columns[1].justify = "right"
    parts = chunks(made, CHUNK)
    for codec in CODECS:
        fetches = [pack([encode_event(event) for event in part], None, codec) for part in parts]
        table.add_row(f"JSON: find the records, codec {codec}", f"{measure(unpack, fetches):,.0f}")
    fetches = [pack([encode_event(event) for event in part], None) for part in parts]
    table.add_row("JSON: find the records, to columns", f"{measure(decode, fetches):,.0f}")
    fetches = [pack([encode_record(event) for event in part], RECORD) for part in parts]
    table.add_row("binary records: the same", f"{measure(decode, fetches):,.0f}")
    for size in (64, 512, 4096):
        fetches = [pack([encode_columns(some) for some in chunks(part, size)], COLUMNS) for part in parts]
        table.add_row(f"micro-batches of {size:,}: the same", f"{measure(decode, fetches):,.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
