"""A soak: one real worker under an even load, for minutes to days.

python tests/bench/soak.py [--minutes 10] [--load 0.7]

Finds the rate at which the worker uses `--load` of a core, keeps to it, and looks every few seconds at memory
and lag. The first fifth is warm-up. The verdict: the worker used that much (within 10 % of a core), memory at
the end within 5 % of that after warm-up, lag never above 10 s of events, every event processed. Exit code 0
if all is so. What is sent: `soak_traffic.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen
from uuid import uuid4

from kafka.admin import ConfigResource, KafkaAdminClient
from prometheus_client.parser import text_string_to_metric_families

sys.path.insert(0, str(Path(__file__).parent))
from soak_traffic import BATCH_EVENTS, PARTITIONS, send

import streams.samples
from streams.bus.kafka import KafkaBus
from streams.localkafka import LocalKafka, free_port
from streams.topics import create_topics

LOOK_S = 5.0
TUNE_S, TUNE_STEPS = 10.0, 12
FIRST_RATE = 20_000
BARS = {"memory_ratio": 0.05, "lag_s": 10.0, "load": 0.1}
KEPT = {"retention.bytes": 2**30, "segment.bytes": 2**27}
"""Of each partition of the events, so that days of them do not fill the disk."""
REFERENCES = Path(str(streams.samples.__file__)).parent


@dataclass(frozen=True)
class Look:
    """One look at the worker."""

    at_s: float
    cpu_s: float
    sender_cpu_s: float
    resident_bytes: int
    events: int
    sent: int

    @property
    def lag(self) -> int:
        """Events on the topic that are not in the state."""
        return max(self.sent - self.events, 0)


class Soak:
    """One worker, one sender, one topic."""

    def __init__(self, address: str, folder: Path) -> None:
        self._prefix = f"soak-{uuid4().hex[:8]}."
        self._rate_file = folder / "rate"
        self._metrics_port = free_port()
        create_topics(address, prefix=self._prefix, partitions=PARTITIONS)
        admin = KafkaAdminClient(bootstrap_servers=address)
        admin.alter_configs([ConfigResource("TOPIC", f"{self._prefix}events", configs=KEPT)])
        admin.close()
        self._bus = KafkaBus(address, timeout_s=60)
        environ = os.environ | {
            "MODELWARDEN_KAFKA": address,
            "MODELWARDEN_TOPIC_PREFIX": self._prefix,
            "MODELWARDEN_CONSUMER_GROUP": f"{self._prefix}group",
            "MODELWARDEN_REFERENCES_PATH": str(REFERENCES),
            "MODELWARDEN_METRICS__ENABLED": "true",
            "MODELWARDEN_METRICS__PORT": str(self._metrics_port),
        }
        self.set_rate(0)
        self._log = folder / "worker.log"
        with self._log.open("wb") as log:
            self.worker = subprocess.Popen(
                [sys.executable, "-c", "from streams.cli import main; main()", "worker"],
                env=environ,
                stdout=log,
                stderr=log,
            )
        sender = [sys.executable, __file__, "--send", address, f"{self._prefix}events", str(self._rate_file)]
        self._sender = subprocess.Popen(sender)

    def set_rate(self, events_per_s: float) -> None:
        """Tell the sender how fast to send."""
        self._rate_file.with_suffix(".new").write_text(str(events_per_s), encoding="ascii")
        self._rate_file.with_suffix(".new").rename(self._rate_file)

    def look(self) -> Look:
        """Measure the worker now. Raises RuntimeError if it or the sender has ended."""
        if self._sender.poll() is not None:
            raise RuntimeError(f"the sender ended with code {self._sender.returncode}")
        if self.worker.poll() is not None:
            tail = self._log.read_text(encoding="utf-8", errors="replace")[-2000:]
            raise RuntimeError(f"the worker ended with code {self.worker.returncode}: {tail}")
        pages = int(Path(f"/proc/{self.worker.pid}/statm").read_text(encoding="ascii").split()[1])
        sums = {"modelwarden_events_total": 0.0, "modelwarden_rejections_total": 0.0}
        with contextlib.suppress(OSError):
            text = urlopen(f"http://127.0.0.1:{self._metrics_port}/metrics", timeout=10).read().decode()
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    if sample.name in sums:
                        sums[sample.name] += sample.value
        return Look(
            at_s=time.monotonic(),
            cpu_s=cpu_s(self.worker.pid),
            sender_cpu_s=cpu_s(self._sender.pid),
            resident_bytes=pages * os.sysconf("SC_PAGE_SIZE"),
            events=int(sum(sums.values())),
            sent=BATCH_EVENTS * sum(self._bus.end_offsets(f"{self._prefix}events").values()),
        )

    def close(self) -> int:
        """Stop everything; return the worker's exit code."""
        self._sender.send_signal(signal.SIGTERM)
        self._sender.wait(30)
        self.worker.send_signal(signal.SIGTERM)
        self._bus.close()
        return self.worker.wait(120)


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def catch_up(soak: Soak) -> None:
    """Send nothing until the worker has processed all."""
    soak.set_rate(0)
    while soak.look().lag:
        time.sleep(1)


def tune(soak: Soak, load: float) -> float:
    """Find the rate at which the worker uses so much of a core, and set it."""
    soak.set_rate(FIRST_RATE)
    while soak.look().events == 0:
        time.sleep(1)
    rate = float(FIRST_RATE)
    for _ in range(TUNE_STEPS):
        before = soak.look()
        time.sleep(TUNE_S)
        after = soak.look()
        span = after.at_s - before.at_s
        used, done = (after.cpu_s - before.cpu_s) / span, (after.events - before.events) / span
        print(f"  tuning: {done:,.0f} events/s use {used:.0%} of a core, lag {after.lag:,}", flush=True)
        if after.lag > before.lag + rate:
            rate *= 0.8
            print(f"  the machine gives no more now: {rate:,.0f} events/s", flush=True)
            catch_up(soak)
        elif abs(used - load) < 0.03:
            break
        else:
            rate *= min(load / max(used, 0.05), 2.0)
        soak.set_rate(rate)
    catch_up(soak)
    soak.set_rate(rate)
    return rate


def judge(looks: list[Look], rate: float) -> list[str]:
    """Return what is not as it must be."""
    tenth = max(len(looks) // 10, 1)
    first = statistics.median(look.resident_bytes for look in looks[:tenth])
    last = statistics.median(look.resident_bytes for look in looks[-tenth:])
    grown, most_lag = last / first - 1, max(look.lag for look in looks)
    print(
        f"memory {first / 1e6:,.0f} MB after warm-up, {last / 1e6:,.0f} MB at the end ({100 * grown:+.1f} %)"
    )
    print(f"largest lag {most_lag:,} events ({most_lag / rate:.1f} s)")
    wrong = []
    if grown > BARS["memory_ratio"]:
        wrong.append(f"memory grew by {100 * grown:.1f} %")
    if most_lag > BARS["lag_s"] * rate:
        wrong.append(f"the lag reached {most_lag / rate:.1f} s of events")
    return wrong


def run(soak: Soak, minutes: float, load: float) -> list[str]:
    """Load the worker and look; return what is wrong."""
    rate = tune(soak, load)
    begin, looks = time.monotonic(), [soak.look()]
    while time.monotonic() - begin < 60 * minutes:
        time.sleep(LOOK_S)
        looks.append(soak.look())
        span = looks[-1].at_s - looks[-2].at_s
        now, before = looks[-1], looks[-2]
        print(
            f"  {(now.at_s - begin) / 60:5.1f} min: {(now.events - before.events) / span:9,.0f} events/s, "
            f"{100 * (now.cpu_s - before.cpu_s) / span:4.0f} % of a core, "
            f"{now.resident_bytes / 1e6:7,.0f} MB, lag {now.lag:7,}",
            flush=True,
        )
    soak.set_rate(0)
    deadline = time.monotonic() + 120
    while (end := soak.look()).lag and time.monotonic() < deadline:
        time.sleep(1)
    span, events = looks[-1].at_s - looks[0].at_s, looks[-1].events - looks[0].events
    used = (looks[-1].cpu_s - looks[0].cpu_s) / span
    print(f"{events:,} events in {span / 60:.1f} min, {events / span:,.0f} a second")
    sender = (looks[-1].sender_cpu_s - looks[0].sender_cpu_s) / span
    print(f"{100 * used:.0f} % of a core; the sender took {100 * sender:.0f} %")
    wrong = judge(looks[len(looks) // 5 :], rate)
    if abs(used - load) > BARS["load"]:
        wrong.append(f"the worker used {100 * used:.0f} % of a core, not {100 * load:.0f} %")
    if end.events != end.sent:
        wrong.append(f"{end.sent} events were sent, {end.events} processed")
    return wrong


def parse() -> Any:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--load", type=float, default=0.7, help="of one core")
    parser.add_argument("--send", nargs=3, metavar=("ADDRESS", "TOPIC", "RATE_FILE"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run on a broker of its own, or on the one in MODELWARDEN_KAFKA."""
    chosen = parse()
    if chosen.send:
        address, topic, rate_file = chosen.send
        asyncio.run(send(address, topic, Path(rate_file)))
    with tempfile.TemporaryDirectory(prefix="soak-") as scratch:
        node = LocalKafka(Path(scratch) / "kafka") if "MODELWARDEN_KAFKA" not in os.environ else None
        address = os.environ["MODELWARDEN_KAFKA"] if node is None else node.start()
        soak = Soak(address, Path(scratch))
        try:
            wrong = run(soak, chosen.minutes, chosen.load)
        finally:
            code = soak.close()
            if node is not None:
                node.stop()
    wrong += [f"the worker ended with code {code}"] if code else []
    print("NOT MET: " + "; ".join(wrong) if wrong else "met: memory flat, lag bounded, no event dropped")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
