"""The worker as a process on a real broker: killed, stalled, misconfigured."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import msgspec
import pytest

import streams.samples
from detectors.alert import Alert
from sinks.records import DeadLetter, Feedback
from sinks.serving.event import encode_event
from streams.bus.kafka import KafkaBus
from streams.pipeline import build_pipeline
from streams.samples import load_sample
from streams.settings import load_settings
from streams.snapshot import Assembler
from streams.topics import create_topics
from streams.traces import arrival_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streams.bus.base import Message

pytestmark = pytest.mark.kafka

PARTITIONS = 4
SEED = 20_261_123
STOP_S = 40
"""A stop in the middle of a rebalance waits for the other members."""
COUNTING = Path(__file__).parent / "counting_worker.py"
REFERENCES = Path(str(streams.samples.__file__)).parent


@dataclass
class Deployment:
    """Topics of its own on the broker, and the worker processes started on them."""

    bus: KafkaBus
    prefix: str
    folder: Path
    environ: dict[str, str]
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8")

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            worker = subprocess.Popen(command, env=self.environ, stderr=log, stdout=log)
        self.workers.append(worker)
        return worker

    def start_counting(self) -> subprocess.Popen[bytes]:
        return self.start(sys.executable, str(COUNTING))

    def start_real(self) -> subprocess.Popen[bytes]:
        return self.start(sys.executable, "-c", "from streams.cli import main; main()", "worker")

    def members(self) -> int:
        """How many workers are ready in the newest generation of the group."""
        generations = [int(found) for found in re.findall(r"worker_ready.*generation=(\d+)", self.log)]
        return generations.count(max(generations, default=0))

    def read(self, topic: str) -> list[Message]:
        return [message for chunk in self.bus.read([self.prefix + topic]) for message in chunk]

    def ids(self, topic: str) -> list[str]:
        return [dict(message.headers)["id"].decode() for message in self.read(topic)]

    def counts(self) -> Counter[str]:
        """What the counting workers held when they last made a snapshot, of each partition the furthest."""
        furthest: dict[str, Counter[str]] = {}
        for path in self.folder.glob("*-*.json"):
            held: Counter[str] = Counter(json.loads(path.read_bytes()))
            partition = path.name.partition("-")[0]
            furthest[partition] = max(held, furthest.get(partition, held), key=Counter.total)
        return sum(furthest.values(), Counter())

    def stored_counts(self) -> Counter[str]:
        """What the newest snapshots on the state topic hold."""
        found = {partition: Assembler(partition) for partition in range(PARTITIONS)}
        for message in self.read("state"):
            found[message.partition].add(message.key or b"", message.value)
        newest = [next(iter(assembler.snapshots())) for assembler in found.values()]
        return sum((Counter(json.loads(snapshot.blob)) for snapshot in newest), Counter())

    def wait(self, what: Callable[[], bool], timeout_s: float = 90) -> None:
        deadline = time.monotonic() + timeout_s
        while not what():
            assert time.monotonic() < deadline, self.log[-4000:]
            time.sleep(0.05)


@pytest.fixture
def deployment(kafka_broker: str, tmp_path: Path) -> Iterator[Deployment]:
    prefix = f"worker-{uuid4().hex[:8]}."
    environ = os.environ | {
        "MODELWARDEN_KAFKA": kafka_broker,
        "MODELWARDEN_TOPIC_PREFIX": prefix,
        "MODELWARDEN_CONSUMER_GROUP": f"{prefix}group",
        "MODELWARDEN_SNAPSHOT_INTERVAL_S": "0.5",
        "COUNTS_DIR": str(tmp_path),
    }
    made = Deployment(KafkaBus(kafka_broker), prefix, tmp_path, environ)
    yield made
    for worker in made.workers:
        worker.kill()
        worker.wait()
    made.bus.close()


def key_reference(number: int) -> str:
    return f"k0-{number:032x}"


def send_numbers(deployment: Deployment, count: int) -> Counter[str]:
    """Send events, some refused and some feedback between them; return the true counts."""
    draw = random.Random(SEED)  # noqa: S311 - traffic, not secrets
    truth: Counter[str] = Counter()
    for number in range(count):
        key = key_reference(draw.randrange(100))
        refused = number % 97 == 0
        value = b"no number" if refused else b"%d" % number
        deployment.bus.send(f"{deployment.prefix}events", value, key=key.encode())
        truth[key] += not refused
        if number % 500 == 0:
            record = Feedback(key=key, verdict="honest", author="ann", reason="known", time_ms=number)
            value = msgspec.json.encode(record)
            deployment.bus.send(f"{deployment.prefix}feedback", value, key=key.encode())
            truth["feedback ann"] += 1
    deployment.bus.flush()
    return truth


def check_outputs(deployment: Deployment, truth: Counter[str], count: int) -> None:
    expected = sum(n // 10 for key, n in truth.items() if not key.startswith("feedback"))
    for topic in ("alerts", "commands"):
        ids = deployment.ids(topic)
        assert len(set(ids)) == len(ids) == expected, topic
    letters = [msgspec.json.decode(m.value or b"", type=DeadLetter) for m in deployment.read("dead-letter")]
    places = [(letter.partition, letter.offset) for letter in letters]
    assert len(set(places)) == len(places) == len(range(0, count, 97))


def test_kill_9_at_any_moment_loses_nothing_and_doubles_nothing(deployment: Deployment) -> None:
    count = 30_000
    create_topics(deployment.environ["MODELWARDEN_KAFKA"], prefix=deployment.prefix, partitions=PARTITIONS)
    truth = send_numbers(deployment, count)
    deployment.environ["PAUSE_S"] = "0.05"
    draw = random.Random(SEED)  # noqa: S311 - moments, not secrets
    for _ in range(3):
        before = deployment.bus.end_offsets(f"{deployment.prefix}alerts")
        worker = deployment.start_counting()
        deployment.wait(lambda: deployment.bus.end_offsets(f"{deployment.prefix}alerts") != before)  # noqa: B023
        time.sleep(draw.random())
        worker.kill()
        assert worker.wait() == -signal.SIGKILL
        assert deployment.counts() != truth, "the kill came too late to prove anything"
    worker = deployment.start_counting()
    deployment.wait(lambda: deployment.counts() == truth)
    worker.terminate()
    assert worker.wait(STOP_S) == 0
    assert deployment.stored_counts() == truth
    check_outputs(deployment, truth, count)


def test_two_workers_a_stall_and_a_clean_stop(deployment: Deployment) -> None:
    count = 20_000
    create_topics(deployment.environ["MODELWARDEN_KAFKA"], prefix=deployment.prefix, partitions=PARTITIONS)
    deployment.environ["PAUSE_S"] = "0.1"
    stalled, other = deployment.start_counting(), deployment.start_counting()
    deployment.wait(lambda: deployment.members() == 2)
    truth = send_numbers(deployment, count)
    deployment.wait(lambda: len(deployment.counts()) > 10)
    stalled.send_signal(signal.SIGSTOP)
    time.sleep(8)  # longer than the session: the other worker takes over, and the stalled one is a zombie
    stalled.send_signal(signal.SIGCONT)
    deployment.wait(lambda: deployment.counts() == truth)
    for worker in (stalled, other):  # the first most likely while it joins the group again
        worker.terminate()
        assert worker.wait(STOP_S) == 0
    assert deployment.stored_counts() == truth
    assert set(deployment.ids("alerts")) == set(deployment.ids("commands"))
    assert len(set(deployment.ids("alerts"))) == sum(
        n // 10 for key, n in truth.items() if not key.startswith("feedback")
    )


def test_real_attacks_are_alerted_once_each_though_the_worker_is_killed(deployment: Deployment) -> None:
    create_topics(deployment.environ["MODELWARDEN_KAFKA"], prefix=deployment.prefix, partitions=PARTITIONS)
    deployment.environ["MODELWARDEN_REFERENCES_PATH"] = str(REFERENCES)
    traces = load_sample()
    events = [[(t.key_reference, encode_event(e)) for e in t.events()] for t in traces]
    for trace, row in zip(*arrival_order(traces), strict=True):
        key, value = events[trace][row]
        deployment.bus.send(f"{deployment.prefix}events", value, key=key.encode())
    deployment.bus.flush()
    worker = deployment.start_real()
    deployment.wait(lambda: sum(deployment.bus.end_offsets(f"{deployment.prefix}alerts").values()) > 0)
    worker.kill()
    worker.wait()
    expected = expected_alerts(deployment)
    worker = deployment.start_real()
    deployment.wait(
        lambda: sum(deployment.bus.end_offsets(f"{deployment.prefix}alerts").values()) >= len(expected)
    )
    worker.terminate()
    assert worker.wait(STOP_S) == 0
    alerts = [msgspec.json.decode(m.value or b"", type=Alert) for m in deployment.read("alerts")]
    assert sorted(alert.alert_id for alert in alerts) == sorted(expected), "as without the kill"
    attackers = {trace.key_reference for trace in traces if trace.attack is not None}
    assert attackers <= {alert.key for alert in alerts}
    decisions = deployment.ids("audit")
    assert len(set(decisions)) == len(decisions) > 0


def expected_alerts(deployment: Deployment) -> list[str]:
    """Alerts of the same partitions, run through pipelines that nobody kills."""
    settings = load_settings(None, {k: v for k, v in deployment.environ.items() if "REFERENCES" in k})
    pipelines = {partition: build_pipeline(settings) for partition in range(PARTITIONS)}
    found: list[str] = []
    for chunk in deployment.bus.read([f"{deployment.prefix}events"]):
        found += [alert.alert_id for alert in pipelines[chunk[0].partition].process(chunk).alerts]
    return found


def test_a_worker_without_its_topics_says_so_and_ends(deployment: Deployment) -> None:
    worker = deployment.start_real()
    assert worker.wait(30) == 1
    assert "missing: run `modelwarden topics create`" in deployment.log
