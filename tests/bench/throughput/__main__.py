"""One table of what a core consumes from Apache Kafka: ours and others, in one interleaved run.

    make bench                                                       # everything, medians of three rounds
    python tests/bench/throughput --rounds 1 --events 200000 --only aiokafka --only json

Every case runs in a process of its own and reads the same partitions of the same broker. What counts is
events per CPU-second of that process, all its threads: wall-clock figures tell of the machine's other work.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

import click
from rich.console import Console
from rich.table import Table

from streams.localkafka import LocalKafka

sys.path.insert(0, str(Path(__file__).parent))
from bench_traffic import FORMATS, fill_topics

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
TIMEOUT_S = 240
BENCH_PYTHON = Path(".venv-bench/bin/python").absolute()


class Case(NamedTuple):
    """One row of the table."""

    name: str
    event_format: str
    does: str


CASES = (
    Case("json", "json", "worker: all detection, JSON"),
    Case("record", "record", "worker: all detection, binary records"),
    Case("columns", "columns", "worker: all detection, micro-batches of 512"),
    Case("json-decode", "json", "worker: JSON to columns, no detection"),
    Case("record-decode", "record", "worker: binary records to columns, no detection"),
    Case("columns-decode", "columns", "worker: micro-batches to columns, no detection"),
    Case("aiokafka", "json", "aiokafka: getmany, nothing done"),
    Case("confluent", "json", "confluent-kafka: count by key"),
    Case("bytewax", "json", "Bytewax: count by key"),
    Case("quixstreams", "json", "Quix Streams: count by key"),
    Case("faust", "json", "stock Faust: count by key"),
)
OURS = {case.name for case in CASES[:6]}


class Figures(NamedTuple):
    """What one run of a case gave."""

    events: int
    cpu_s: float
    wall_s: float


def run_case(case: Case, brokers: str, prefix: str, events: int) -> Figures | str:
    """Run a case in a process and a directory of its own; return its figures, or what went wrong."""
    if case.name in OURS:
        what = "decode" if case.name.endswith("-decode") else "detect"
        command = [sys.executable, str(HERE / "ours.py"), what, brokers, prefix, str(events)]
    else:
        python = str(BENCH_PYTHON) if BENCH_PYTHON.exists() else sys.executable
        command = [python, str(HERE / "others.py"), case.name, brokers, f"{prefix}events", str(events)]
    try:
        with tempfile.TemporaryDirectory() as folder:  # Faust and Quix Streams keep files where they are run
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
    except subprocess.TimeoutExpired:
        return f"no figures after {TIMEOUT_S} s"
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"events"')]
    if not lines:
        return ([line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"])[-1]
    return Figures(**json.loads(lines[-1]))


@contextmanager
def broker() -> Iterator[str]:
    """Give the broker of MODELWARDEN_KAFKA, or one of our own."""
    given = os.environ.get("MODELWARDEN_KAFKA")
    if given:
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        node = LocalKafka(Path(folder) / "kafka", tell=partial(print, file=sys.stderr))
        try:
            yield node.start()
        finally:
            node.stop()


def show(console: Console, found: dict[str, list[Figures]], failed: dict[str, str]) -> None:
    """Print the table: medians, and ratios to a bare aiokafka loop."""
    rates = {name: [f.events / f.cpu_s for f in figures] for name, figures in found.items() if figures}
    base = statistics.median(rates["aiokafka"]) if "aiokafka" in rates else None
    table = Table(title="Events per CPU-second, one consumer process, Apache Kafka on loopback")
    for column in ("case", "events / CPU-s", "lowest to highest", "events / s", "x aiokafka"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for case in CASES:
        if case.name in rates:
            found_rates, median = rates[case.name], statistics.median(rates[case.name])
            wall = statistics.median(f.events / f.wall_s for f in found[case.name])
            spread = f"{min(found_rates):,.0f} to {max(found_rates):,.0f}"
            ratio = "" if base is None else f"{median / base:.2f}"
            table.add_row(case.does, f"{median:,.0f}", spread, f"{wall:,.0f}", ratio)
        elif case.name in failed:
            table.add_row(case.does, "failed", failed[case.name][:60], "", "")
    console.print(table)


@click.command()
@click.option(
    "--events",
    default=4_000_000,
    show_default=True,
    help="Events in each topic, the same ones; a fifth of them, while keys are new, is not measured.",
)
@click.option("--rounds", default=3, show_default=True, help="Interleaved repetitions; medians are printed.")
@click.option(
    "--only", multiple=True, type=click.Choice([case.name for case in CASES]), help="Only these cases."
)
@click.option("--output", type=click.Path(path_type=Path), help="Also write every figure as JSON.")
def main(events: int, rounds: int, only: tuple[str, ...], output: Path | None) -> None:
    """Measure events per CPU-second, all cases in turn, several rounds."""
    console = Console(stderr=False, width=110)
    cases = [case for case in CASES if not only or case.name in only]
    found: dict[str, list[Figures]] = {case.name: [] for case in cases}
    failed: dict[str, str] = {}
    with broker() as brokers:
        run = uuid4().hex[:6]
        for name in FORMATS:
            if any(case.event_format == name for case in cases):
                start = time.perf_counter()
                fill_topics(brokers, f"bench-{run}-{name}.", name, events)
                print(
                    f"{events:,} events as {name} written in {time.perf_counter() - start:.0f} s",
                    file=sys.stderr,
                )
        for number in range(rounds):
            for case in cases:
                got = run_case(case, brokers, f"bench-{run}-{case.event_format}.", events)
                if isinstance(got, Figures):
                    found[case.name].append(got)
                    told = f"{got.events / got.cpu_s:,.0f} events / CPU-s"
                else:
                    failed[case.name] = told = got
                print(f"round {number + 1} of {rounds}: {case.does}: {told}", file=sys.stderr)
    show(console, found, failed)
    if output is not None:
        output.write_text(
            json.dumps({name: [f._asdict() for f in figures] for name, figures in found.items()})
        )


if __name__ == "__main__":
    main()
