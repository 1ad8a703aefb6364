"""What the writer of annotations costs detection while Grafana is away: a worker's pace with and without it.

python tests/bench/sink_throughput.py [--rounds 5] [--events 40000]

A real Kafka, one worker, the same events each time. In each round `modelwarden annotate` runs during one half
and not during the other, and which comes first alternates. The halves are compared by events a second of the
worker's processor time, which other programs on the machine disturb least. The bar: the median of the rounds'
ratios is 0.98 or more. Exit code 0 if so.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import urlopen
from uuid import uuid4

import msgspec
from prometheus_client.parser import text_string_to_metric_families

import streams.samples
from sinks.serving.event import encode_event
from streams.bus.kafka import KafkaBus
from streams.localkafka import LocalKafka, free_port
from streams.samples import load_sample
from streams.topics import create_topics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PARTITIONS = 2
BAR = 0.98
WAIT_S = 300.0
REFERENCES = Path(str(streams.samples.__file__)).parent


class Bench:
    """One worker on a topic of its own; the writer beside it comes and goes."""

    def __init__(self, kafka: str, folder: Path) -> None:
        self.prefix, self._folder, self._port = f"sink-{uuid4().hex[:8]}.", folder, free_port()
        create_topics(kafka, prefix=self.prefix, partitions=PARTITIONS)
        self.bus = KafkaBus(kafka, timeout_s=60)
        self._environ = os.environ | {
            "MODELWARDEN_KAFKA": kafka,
            "MODELWARDEN_TOPIC_PREFIX": self.prefix,
            "MODELWARDEN_CONSUMER_GROUP": f"{self.prefix}group",
            "MODELWARDEN_REFERENCES_PATH": str(REFERENCES),
            "MODELWARDEN_METRICS__ENABLED": "true",
            "MODELWARDEN_METRICS__PORT": str(self._port),
            "MODELWARDEN_GRAFANA_URL": "http://127.0.0.1:1",  # nobody there
            "MODELWARDEN_GRAFANA_TOKEN": "token",
        }
        self.worker = self._run("worker")

    def _run(self, *words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", "from streams.cli import main; main()", *words]
        with (self._folder / f"{words[0]}.log").open("ab") as log:
            return subprocess.Popen(command, env=self._environ, stdout=log, stderr=log)

    def wait_until_ready(self) -> None:
        """Wait for the worker."""
        wait(lambda: bool(read(self._port, "/readyz")), "the worker does not start")

    def close(self) -> None:
        """End the worker."""
        self.worker.terminate()
        self.worker.wait(60)
        self.bus.close()

    def run_annotate(self) -> subprocess.Popen[bytes]:
        """Start the writer and wait until it answers."""
        port = free_port()
        made = self._run("annotate", "--spool", str(self._folder / "spool.db"), "--metrics-port", str(port))
        wait(lambda: bool(read(port, "/readyz")), "the writer of annotations does not start")
        return made

    def processed(self) -> float:
        """Events that the worker has processed."""
        families = text_string_to_metric_families(read(self._port, "/metrics"))
        return sum(s.value for f in families for s in f.samples if s.name == "modelwarden_events_total")

    def cpu_s(self) -> float:
        """Processor time that the worker has used."""
        fields = Path(f"/proc/{self.worker.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def measure(self, events: list[tuple[bytes, bytes]]) -> float:
        """Have the worker process events, and return how many it did a second of processor time."""
        before, used_s = self.processed(), self.cpu_s()
        for key, value in events:
            self.bus.send(f"{self.prefix}events", value, key=key)
        self.bus.flush()
        wait(lambda: self.processed() >= before + len(events), "the worker does not finish")
        return len(events) / (self.cpu_s() - used_s)


def read(port: int, path: str) -> str:
    """Return what a process answers; nothing if it does not."""
    try:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def wait(what: Callable[[], bool], why: str) -> None:
    """Wait until something is so. Raises TimeoutError."""
    deadline_s = time.monotonic() + WAIT_S
    while not what():
        if time.monotonic() > deadline_s:
            raise TimeoutError(why)
        time.sleep(0.1)


def make_events(count: int, half: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the sample's events, thefts among them, under keys of this half: each half finds them anew."""
    traces = load_sample()
    made = 0
    while True:
        for trace in traces:
            key = f"k0-{half:08x}{made:08x}{0:016x}"
            for event in trace.events():
                yield key.encode(), encode_event(msgspec.structs.replace(event, key=key))
                made += 1
                if made == count:
                    return


def compare(bench: Bench, rounds: int, count: int) -> list[float]:
    """Return each round's ratio of the pace with the writer to that without it."""
    bench.wait_until_ready()
    bench.measure(list(make_events(count, 0)))  # warm-up
    ratios = []
    for number in range(rounds):
        paces = {}
        for half, is_with in enumerate((number % 2 == 0, number % 2 == 1)):
            events = list(make_events(count, 1 + 2 * number + half))
            writer = bench.run_annotate() if is_with else None
            paces[is_with] = bench.measure(events)
            if writer is not None:
                writer.terminate()
                writer.wait(60)
        ratios.append(paces[True] / paces[False])
        print(
            f"round {number + 1}: {paces[False]:,.0f} events a CPU-second without the writer, "
            f"{paces[True]:,.0f} with it: ratio {ratios[-1]:.3f}",
            flush=True,
        )
    return ratios


def main() -> int:
    """Run the rounds and tell the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--events", type=int, default=40_000, help="in each half of a round")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sink-") as scratch:
        node = LocalKafka(Path(scratch) / "kafka")
        bench = Bench(node.start(), Path(scratch))
        try:
            ratios = compare(bench, given.rounds, given.events)
            alerts = sum(bench.bus.end_offsets(f"{bench.prefix}alerts").values())
        finally:
            bench.close()
            node.stop()
    median = statistics.median(ratios)
    is_met = median >= BAR
    print(
        f"{alerts:,} alerts; median ratio {median:.3f} of {len(ratios)} rounds; bar {BAR}: "
        f"{'met' if is_met else 'not met'}"
    )
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
