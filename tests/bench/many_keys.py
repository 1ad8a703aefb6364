"""One real worker and millions of keys: what it takes, and how soon it is back after it was stopped.

python tests/bench/many_keys.py [--keys 5000000] [--partitions 8]

Writes one event of every key, in any order, and then as many events of a heavy tail of them, in micro-batches
of 512 recorded honest queries; a worker with the default settings reads them all, is asked to stop, and is
started again. Most keys are light: those that were not seen for longest keep a summary only. Printed: rate,
CPU, memory, and the time from the second worker's first subscription until it has all keys again. A key that
asks two models is kept twice. Exit code 0 if every event was processed, and by the second worker too.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.request import urlopen
from uuid import uuid4

import numpy as np
from kafka import KafkaProducer
from prometheus_client.parser import text_string_to_metric_families

sys.path.insert(0, str(Path(__file__).parent))
from soak import REFERENCES, cpu_s
from soak_traffic import BATCH_EVENTS, Template

from sinks.serving.formats import COLUMNS, FORMAT_HEADER
from streams.localkafka import LocalKafka, free_port
from streams.samples import load_sample
from streams.topics import create_topics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

TEMPLATES = 64
START_MS, EVENTS_PER_MS = 1_760_000_000_000, 100
READY_S, STOP_S, IDLE_S = 300.0, 300.0, 120.0
SETTLE_S = 20.0
"""Until its metrics tell of what it has read."""
PACE = 1 << 20
AFTER = 64
"""Messages for the second worker."""


def make_templates() -> list[Template]:
    """Make micro-batches of recorded honest queries, mixed."""
    events = [event for trace in load_sample() if trace.attack is None for event in trace.events()]
    order = np.random.default_rng(1).permutation(len(events))
    mixed = [events[place] for place in np.resize(order, TEMPLATES * BATCH_EVENTS).tolist()]
    return [Template(mixed[start : start + BATCH_EVENTS]) for start in range(0, len(mixed), BATCH_EVENTS)]


def key_numbers(keys: int, partitions: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield partitions and the numbers of the keys of a message: all keys once, then a heavy tail of them."""
    rng, own = np.random.default_rng(2), keys // partitions
    orders = [rng.permutation(own) for _ in range(partitions)]
    for start in range(0, own, BATCH_EVENTS):
        for partition, order in enumerate(orders):
            yield partition, order[start : start + BATCH_EVENTS] * partitions + partition
    for _ in range(0, own, BATCH_EVENTS):
        for partition in range(partitions):
            tail = np.minimum(rng.zipf(1.2, BATCH_EVENTS) - 1, rng.integers(0, own, BATCH_EVENTS))
            yield partition, tail * partitions + partition


class Traffic:
    """What was sent so far."""

    def __init__(self, address: str, topic: str) -> None:
        self._producer = KafkaProducer(bootstrap_servers=address, linger_ms=20, batch_size=2**20, acks=1)
        self._topic, self._templates, self.messages = topic, make_templates(), 0

    def send(self, partition: int, numbers: NDArray[np.int64]) -> None:
        """Send one micro-batch."""
        template = self._templates[self.messages % TEMPLATES]
        until_ms = START_MS + self.messages * BATCH_EVENTS // EVENTS_PER_MS
        value = template.of_keys(spread(numbers), until_ms - BATCH_EVENTS // EVENTS_PER_MS, until_ms)
        headers = [(FORMAT_HEADER, COLUMNS)]
        self._producer.send(self._topic, value, partition=partition, headers=headers)
        self.messages += 1
        if self.messages % 512 == 0:
            self._producer.flush()

    @property
    def events(self) -> int:
        """Events sent."""
        return self.messages * BATCH_EVENTS

    def flush(self) -> None:
        """Wait until all is stored."""
        self._producer.flush()


def spread(numbers: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Return the references of keys, four words each, that look as random as real ones."""
    place = np.arange(1, 5, dtype=np.uint64)
    words: NDArray[np.uint64] = (numbers.astype(np.uint64)[:, None] << np.uint64(2)) + place
    words = words * np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    spread_words: NDArray[np.uint32] = (words >> np.uint64(32)).astype(np.uint32)
    return spread_words


class Worker:
    """A worker in a process of its own."""

    def __init__(self, address: str, prefix: str, log: Path) -> None:
        self._port, self._log = free_port(), log
        environ = os.environ | {
            "MODELWARDEN_KAFKA": address,
            "MODELWARDEN_TOPIC_PREFIX": prefix,
            "MODELWARDEN_CONSUMER_GROUP": f"{prefix}group",
            "MODELWARDEN_REFERENCES_PATH": str(REFERENCES),
            "MODELWARDEN_METRICS__ENABLED": "true",
            "MODELWARDEN_METRICS__PORT": str(self._port),
        }
        command = [sys.executable, "-c", "from streams.cli import main; main()", "worker"]
        with log.open("wb") as output:
            self.process = subprocess.Popen(command, env=environ, stdout=output, stderr=output)

    def metric(self, *names: str) -> int:
        """Return the sum of some metrics; 0 before there are any. Raises RuntimeError if it ended."""
        if self.process.poll() is not None:
            tail = self._log.read_text(encoding="utf-8", errors="replace")[-2000:]
            raise RuntimeError(f"the worker ended with code {self.process.returncode}: {tail}")
        try:
            text = urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=30).read().decode()
        except OSError:
            return 0
        families = text_string_to_metric_families(text)
        return int(sum(s.value for family in families for s in family.samples if s.name in names))

    @property
    def events(self) -> int:
        """Events processed or refused."""
        return self.metric("modelwarden_events_total", "modelwarden_rejections_total")

    @property
    def resident_bytes(self) -> int:
        """Memory in use."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def wait_logged(self, text: str) -> float:
        """Return the monotonic time at which it says something. Raises RuntimeError if it does not."""
        deadline_s = time.monotonic() + READY_S
        while text not in (told := self._log.read_text(encoding="utf-8", errors="replace")):
            if self.process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"the worker never said {text!r}: {told[-2000:]}")
            time.sleep(0.1)
        return time.monotonic()

    def wait_until(self, events: int) -> bool:
        """Wait until it has processed so many; False if it stops making progress."""
        seen, since_s = -1, time.monotonic()
        while (now := self.events) < events:
            if now != seen:
                seen, since_s = now, time.monotonic()
            if time.monotonic() - since_s > IDLE_S:
                return False
            time.sleep(0.5)
        return now == events

    def stop(self) -> int:
        """Ask it to stop, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_S)


def read_all(worker: Worker, traffic: Traffic, keys: int, partitions: int) -> bool:
    """Send everything to the first worker, and stop it; tell whether it processed every event."""
    start_s = time.monotonic()
    for partition, numbers in key_numbers(keys, partitions):
        traffic.send(partition, numbers)
        if traffic.events % PACE == 0:
            print(f"  {traffic.events:,} events sent", flush=True)
    traffic.flush()
    done = worker.wait_until(traffic.events)
    took_s, cpu = time.monotonic() - start_s, cpu_s(worker.process.pid)
    time.sleep(SETTLE_S)
    tracked = worker.metric("modelwarden_keys_tracked")
    print(f"{traffic.events:,} events of {keys:,} keys in {took_s:.0f} s, {cpu:.0f} CPU-s of the worker")
    print(f"{tracked:,} keys kept in full, {worker.resident_bytes / 1e9:.2f} GB resident")
    stop_s = time.monotonic()
    code = worker.stop()
    print(f"stopped with code {code} after {time.monotonic() - stop_s:.1f} s, all stored")
    return done and code == 0


def go_on(worker: Worker, traffic: Traffic, partitions: int) -> bool:
    """Let the second worker take everything over; tell whether it processes what comes then."""
    start_s = worker.wait_logged("Updating subscribed topics")
    print(f"a new worker has it all after {worker.wait_logged('worker_ready') - start_s:.1f} s", end=", ")
    for place in range(AFTER):
        traffic.send(place % partitions, np.arange(BATCH_EVENTS) * partitions + place % partitions)
    traffic.flush()
    done = worker.wait_until(AFTER * BATCH_EVENTS)
    print(f"{worker.resident_bytes / 1e9:.2f} GB resident, {worker.events:,} events more processed")
    return worker.stop() == 0 and done


def run(address: str, keys: int, partitions: int, folder: Path) -> bool:
    """Measure and print; tell whether every event was processed."""
    prefix, step = f"many-{uuid4().hex[:6]}.", partitions * BATCH_EVENTS
    keys = max(keys // step, 1) * step
    create_topics(address, prefix=prefix, partitions=partitions)
    traffic = Traffic(address, f"{prefix}events")
    with Worker(address, prefix, folder / "first.log") as worker:
        done = read_all(worker, traffic, keys, partitions)
    with Worker(address, prefix, folder / "second.log") as worker:
        return go_on(worker, traffic, partitions) and done


def main() -> None:
    """Run on a broker of its own, or on the one in MODELWARDEN_KAFKA."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keys", type=int, default=5_000_000)
    parser.add_argument("--partitions", type=int, default=8)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="many-keys-") as folder:
        node = LocalKafka(Path(folder)) if "MODELWARDEN_KAFKA" not in os.environ else None
        try:
            address = node.start() if node else os.environ["MODELWARDEN_KAFKA"]
            sys.exit(0 if run(address, chosen.keys, chosen.partitions, Path(folder)) else 1)
        finally:
            if node is not None:
                node.stop()


if __name__ == "__main__":
    main()
