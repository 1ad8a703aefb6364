"""From an event produced to the command that it causes, readable on its topic: a histogram at several loads.

    python tests/bench/latency.py --rate 20000 --rate 50000 --seconds 30
    python tests/bench/latency.py --half-of-sustained

Honest recorded events of many keys run at the given rate through a real worker that may act, in micro-batches
of ten milliseconds, as serving processes send them; among them, eight fresh keys at a time send recorded
attacks, a micro-batch an event. A command names its alert, the alert the offset of the event that completed
it, and the producer knows when it began to send that. Micro-batches are made before, so that the sender takes
little. Some seconds of the first load go before and do not count: a broker is slow when it first writes to a
topic.

The sustained load is the highest at which nine of ten commands still come within a second; it is looked for
in steps of a quarter, with the broker and the sender on the same machine. The broker of so high a load waits
for its disk, unless TMPDIR is in memory.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import click
import msgspec
import numpy as np
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from click.testing import CliRunner
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent / "throughput"))
from bench_traffic import PARTITIONS, keyed

import streams.samples
from detectors.alert import Alert
from detectors.batch import format_key_reference
from sinks.records import Command
from sinks.serving.formats import COLUMNS, FORMAT_HEADER, encode_columns
from streams.cli import main as modelwarden
from streams.localkafka import LocalKafka
from streams.samples import load_sample
from streams.topics import create_topics

if TYPE_CHECKING:
    from sinks.records import ServingEvent

HEADERS = [(FORMAT_HEADER, COLUMNS)]
BUCKETS_MS = (10, 20, 30, 50, 100, 200, 500, 1000)
ATTACKERS, EVENTS_OF_ATTACK, STEP_S = 8, 60, 0.02
TICK_S, LINGER_S = 0.002, 0.010
READY_S = 180
WARM_UP_S = 5.0
BACKGROUND = 100_000
"""Events that are made; they are sent again and again."""
FIRST_RATE, RATE_RATIO, TRY_S, LATEST_MS = 100_000, 1.25, 10.0, 1000.0
"""How the sustained load is looked for."""


class Load(NamedTuple):
    """What one load gave."""

    wanted: int
    sent_per_s: float
    latencies_ms: list[float]

    @property
    def is_sustained(self) -> bool:
        """Whether everything was sent in time, and nine of ten commands came in time."""
        in_time = self.sent_per_s > 0.97 * self.wanted
        return in_time and bool(self.latencies_ms) and self.p90_ms < LATEST_MS

    @property
    def p90_ms(self) -> float:
        """What nine of ten commands took at most."""
        return float(np.percentile(self.latencies_ms, 90)) if self.latencies_ms else float("nan")


class MicroBatch(NamedTuple):
    """A message of the background."""

    partition: int
    events: int
    value: bytes


def make_background(rate: int) -> list[MicroBatch]:
    """Make micro-batches as they come of so many events a second, in order."""
    size = max(round(rate * LINGER_S / PARTITIONS), 1)
    waiting: list[list[ServingEvent]] = [[] for _ in range(PARTITIONS)]
    made = []
    for partition, event in keyed(BACKGROUND):
        waiting[partition].append(event)
        if len(waiting[partition]) == size:
            made.append(MicroBatch(partition, size, encode_columns(waiting[partition])))
            waiting[partition] = []
    return made


class Bench:
    """A worker on topics of its own, and what is known of the events sent to it."""

    def __init__(self, brokers: str, folder: Path) -> None:
        self.brokers = brokers
        self.prefix = f"latency-{uuid4().hex[:6]}."
        self.folder = folder
        self.sent_s: dict[tuple[int, int], float] = {}
        self.alerts: dict[str, tuple[int, int]] = {}
        self.commands: dict[str, float] = {}
        self.attacks = [trace for trace in load_sample() if trace.attack == "uniform"]
        self.keys = 0

    def start_worker(self) -> subprocess.Popen[bytes]:
        """Start a worker that may act, with the sample's references."""
        create_topics(self.brokers, prefix=self.prefix, partitions=PARTITIONS)
        key = self.folder / "signing.pem"
        made = CliRunner().invoke(modelwarden, ["policy", "keygen", str(key)])
        if made.exit_code:
            raise click.ClickException(made.output)
        environ = os.environ | {
            "MODELWARDEN_KAFKA": self.brokers,
            "MODELWARDEN_TOPIC_PREFIX": self.prefix,
            "MODELWARDEN_CONSUMER_GROUP": f"{self.prefix}group",
            "MODELWARDEN_POLICY_MODE": "enforce",
            "MODELWARDEN_SIGNING_KEY_FILE": str(key),
            "MODELWARDEN_REFERENCES_PATH": str(Path(str(streams.samples.__file__)).parent),
        }
        command = [sys.executable, "-c", "from streams.cli import main; main()", "worker"]
        with (self.folder / "log").open("wb") as log:
            return subprocess.Popen(command, env=environ, stdout=log, stderr=log)

    async def wait_ready(self, worker: subprocess.Popen[bytes]) -> None:
        """Wait until the worker has its partitions."""
        for _ in range(10 * READY_S):
            if "worker_ready" in (self.folder / "log").read_text(encoding="utf-8"):
                return
            if worker.poll() is not None:
                break
            await asyncio.sleep(0.1)
        raise click.ClickException((self.folder / "log").read_text(encoding="utf-8")[-3000:])

    async def watch(self, name: str) -> None:
        """Read alerts or commands as they come."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.brokers, fetch_max_wait_ms=100)
        await consumer.start()
        try:
            consumer.assign([TopicPartition(f"{self.prefix}{name}", p) for p in range(PARTITIONS)])
            await consumer.seek_to_beginning()
            while True:
                for records in (await consumer.getmany(timeout_ms=100)).values():
                    now_s = time.perf_counter()
                    for record in records:
                        self._take(name, record.value, now_s)
        finally:
            await consumer.stop()

    def _take(self, name: str, value: bytes, now_s: float) -> None:
        if name == "alerts":
            alert = msgspec.json.decode(value, type=Alert)
            self.alerts[alert.alert_id] = (alert.partition, alert.offset)
        else:
            self.commands.setdefault(msgspec.json.decode(value, type=Command).alert_id, now_s)

    async def attack(self, producer: Any, after_s: float, until_s: float) -> None:
        """Wait, then send one attack after the other, each by a fresh key."""
        await asyncio.sleep(after_s)
        while time.perf_counter() < until_s:
            self.keys += 1
            key = format_key_reference(0, 2**63 + self.keys, self.keys)
            events = list(self.attacks[self.keys % len(self.attacks)].events(key))[:EVENTS_OF_ATTACK]
            for event in events:
                start_s = time.perf_counter()
                stored = await producer.send_and_wait(
                    f"{self.prefix}events", encode_columns([event]), key=key.encode(), headers=HEADERS
                )
                self.sent_s[stored.partition, stored.offset] = start_s
                await asyncio.sleep(STEP_S)

    async def run(self, rate: int, seconds: float, producer: Any) -> Load:
        """Run one load; return the latencies of the commands that it caused."""
        background = itertools.cycle(make_background(rate))
        gc.collect()
        gc.freeze()  # else the sender pauses, now and then, to go through what it has made
        before = set(self.commands)
        start_s = time.perf_counter()
        apart_s = EVENTS_OF_ATTACK * STEP_S / ATTACKERS
        attacks = [
            asyncio.create_task(self.attack(producer, number * apart_s, start_s + seconds))
            for number in range(ATTACKERS)
        ]
        sent = 0
        while (now_s := time.perf_counter()) < start_s + seconds:
            while sent < (now_s - start_s) * rate:
                batch = next(background)
                await producer.send(
                    f"{self.prefix}events", batch.value, partition=batch.partition, headers=HEADERS
                )
                sent += batch.events
            await asyncio.sleep(TICK_S)
        took_s = time.perf_counter() - start_s
        await asyncio.gather(*attacks)
        await producer.flush()
        await asyncio.sleep(3)
        fresh = {alert: at for alert, at in self.commands.items() if alert not in before}
        places = {alert: self.alerts.get(alert) for alert in fresh}
        known = {alert: self.sent_s.get(place) for alert, place in places.items() if place is not None}
        latencies = [1000 * (fresh[alert] - at) for alert, at in known.items() if at is not None]
        return Load(rate, sent / took_s, latencies)


def show(loads: list[Load]) -> None:
    """Print the histogram."""
    table = Table(title="Event produced to command readable")
    for column in (
        "events/s wanted",
        "sent",
        "commands",
        "p50 ms",
        "p99 ms",
        *(f"<{ms} ms" for ms in BUCKETS_MS),
    ):
        table.add_column(column, justify="right")
    for load in loads:
        found = np.array(load.latencies_ms)
        if not len(found):
            table.add_row(f"{load.wanted:,}", f"{load.sent_per_s:,.0f}", "0")
            continue
        shares = [f"{np.mean(found < ms):.0%}" for ms in BUCKETS_MS]
        p50, p99 = np.percentile(found, [50, 99])
        table.add_row(
            f"{load.wanted:,}",
            f"{load.sent_per_s:,.0f}",
            str(len(found)),
            f"{p50:.0f}",
            f"{p99:.0f}",
            *shares,
        )
    Console(width=140).print(table)


async def find_sustained(bench: Bench, producer: Any) -> int:
    """Return the highest load that the worker keeps up with."""
    rate, sustained = FIRST_RATE, 0
    while True:
        load = await bench.run(rate, TRY_S, producer)
        print(f"{load.sent_per_s:,.0f} events/s: nine of ten within {load.p90_ms:.0f} ms", file=sys.stderr)
        if not load.is_sustained and not sustained:
            raise click.ClickException(f"not even {rate:,} events a second are sustained here: give --rate")
        if not load.is_sustained:
            return sustained
        rate, sustained = round(rate * RATE_RATIO), rate


async def measure(bench: Bench, rates: tuple[int, ...], seconds: float) -> list[Load]:
    """Run every load in turn on one worker; without any, half of what it sustains."""
    worker = bench.start_worker()
    producer = AIOKafkaProducer(bootstrap_servers=bench.brokers, linger_ms=2, max_batch_size=65_536)
    watches: list[asyncio.Task[None]] = []
    try:
        await bench.wait_ready(worker)
        await producer.start()
        watches = [asyncio.create_task(bench.watch(name)) for name in ("alerts", "commands")]
        await bench.run(rates[0] if rates else FIRST_RATE, WARM_UP_S, producer)
        rates = rates or (await find_sustained(bench, producer) // 2,)
        loads = []
        for rate in rates:
            loads.append(await bench.run(rate, seconds, producer))
            print(f"{rate:,} events/s: {len(loads[-1].latencies_ms)} commands", file=sys.stderr)
        return loads
    finally:
        for watch in watches:
            watch.cancel()
        await producer.stop()
        worker.kill()
        worker.wait()


@click.command()
@click.option(
    "--rate",
    "rates",
    multiple=True,
    type=int,
    default=(1_000, 20_000),
    show_default=True,
    help="Events a second; may be given several times.",
)
@click.option("--half-of-sustained", "is_half", is_flag=True, help="Find the highest load, and measure half.")
@click.option("--seconds", default=30.0, show_default=True, help="Of each load.")
def main(rates: tuple[int, ...], *, is_half: bool, seconds: float) -> None:
    """Measure from an event produced to its command readable."""
    given = os.environ.get("MODELWARDEN_KAFKA")
    # Gigabytes of events: they go when this ends.
    with tempfile.TemporaryDirectory() as folder:
        node = None if given else LocalKafka(Path(folder) / "kafka", tell=partial(print, file=sys.stderr))
        try:
            brokers = given or (node.start() if node else "")
            show(asyncio.run(measure(Bench(brokers, Path(folder)), () if is_half else rates, seconds)))
        finally:
            if node is not None:
                node.stop()


if __name__ == "__main__":
    main()
