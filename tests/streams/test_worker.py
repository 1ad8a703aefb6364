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
from click.testing import CliRunner

import streams.samples
from detectors.alert import Alert
from sinks.records import Command, DeadLetter, Feedback
from sinks.serving.event import encode_event
from sinks.signing import key_id, load_public_key, verify
from streams.bus.kafka import KafkaBus
from streams.cli import main
from streams.pipeline import build_pipeline
from streams.samples import load_sample
from streams.settings import load_settings
from streams.snapshot import Assembler
from streams.topics import create_topics
from streams.traces import arrival_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from streams.bus.base import Message

pytestmark = pytest.mark.kafka

PARTITIONS = 4
SEED = 20_261_123
STOP_S = 40
"""A stop in the middle of a rebalance waits for the other members."""
HARMFUL = {"throttle", "suspend", "revoke"}
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

    def size(self, topic: str) -> int:
        return sum(self.bus.end_offsets(self.prefix + topic).values())

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
            ended = {worker.poll() for worker in self.workers} - {None, 0, -signal.SIGKILL}
            assert not ended, self.log[-8000:]
            assert time.monotonic() < deadline, self.log[-8000:]
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


def send_events(deployment: Deployment, events: Iterable[tuple[str, bytes]]) -> int:
    count = 0
    for key, value in events:
        deployment.bus.send(f"{deployment.prefix}events", value, key=key.encode())
        count += 1
    deployment.bus.flush()
    return count


def enforce(deployment: Deployment) -> dict[str, Ed25519PublicKey]:
    """Let the workers sign commands; return the keys that verify them."""
    private = deployment.folder / "signing.pem"
    made = CliRunner().invoke(main, ["policy", "keygen", str(private)])
    assert made.exit_code == 0, made.output
    deployment.environ["MODELWARDEN_SIGNING_KEY_FILE"] = str(private)
    deployment.environ["MODELWARDEN_REFERENCES_PATH"] = str(REFERENCES)
    public = load_public_key(private.with_name("signing.pem.pub"))
    return {key_id(public): public}


def read_commands(deployment: Deployment, public_keys: Mapping[str, Ed25519PublicKey]) -> list[Command]:
    commands = [msgspec.json.decode(m.value or b"", type=Command) for m in deployment.read("commands")]
    for command in commands:
        verify(command, public_keys)
    return commands


def expected_outputs(deployment: Deployment) -> tuple[list[Alert], list[Command]]:
    """Outputs of the same partitions, run through pipelines that nobody kills."""
    names = ("REFERENCES", "SIGNING", "POLICY")
    environ = {name: v for name, v in deployment.environ.items() if any(part in name for part in names)}
    settings = load_settings(None, environ)
    pipelines = {partition: build_pipeline(settings) for partition in range(PARTITIONS)}
    alerts: list[Alert] = []
    commands: list[Command] = []
    for chunk in deployment.bus.read([f"{deployment.prefix}events"]):
        outputs = pipelines[chunk[0].partition].process(chunk)
        alerts += outputs.alerts
        commands += outputs.commands
    return alerts, commands


def test_every_attack_is_suspended_by_signed_commands_though_the_worker_is_killed(
    deployment: Deployment,
) -> None:
    create_topics(deployment.environ["MODELWARDEN_KAFKA"], prefix=deployment.prefix, partitions=PARTITIONS)
    public_keys = enforce(deployment)
    deployment.environ["MODELWARDEN_POLICY_MODE"] = "enforce"
    deployment.environ["MODELWARDEN_CONSUMER_INSTANCE_ID"] = "worker-0"
    traces = load_sample()
    encoded = [[(t.key_reference, encode_event(e)) for e in t.events()] for t in traces]
    events = [encoded[trace][row] for trace, row in zip(*arrival_order(traces), strict=True)]
    third = -(-len(events) // 3)
    worker = deployment.start_real()
    for start in range(0, len(events), third):
        before = deployment.size("commands")
        send_events(deployment, events[start : start + third])
        if start + third < len(events):
            deployment.wait(lambda: deployment.size("commands") > before)  # noqa: B023
            worker.kill()
            worker.wait()
            worker = deployment.start_real()
    alerts, commands = expected_outputs(deployment)
    deployment.wait(lambda: deployment.size("alerts") >= len(alerts))
    deployment.wait(lambda: deployment.size("commands") >= len(commands))
    worker.terminate()
    assert worker.wait(STOP_S) == 0
    assert set(re.findall(r"worker_ready.*generation=(\d+)", deployment.log)) == {"1"}, (
        "a static member comes back without a rebalance"
    )

    def in_order(records: Iterable[Alert | Command]) -> list[bytes]:
        return sorted(msgspec.json.encode(record) for record in records)

    written = [msgspec.json.decode(m.value or b"", type=Alert) for m in deployment.read("alerts")]
    assert in_order(written) == in_order(alerts), "as without the kills"
    sent = read_commands(deployment, public_keys)
    assert in_order(sent) == in_order(commands), "as without the kills, sequence numbers included"
    for topic in ("alerts", "commands", "audit"):
        ids = deployment.ids(topic)
        assert len(set(ids)) == len(ids) > 0, topic
    attackers = {trace.key_reference for trace in traces if trace.attack is not None}
    assert len(attackers) >= 10
    assert attackers <= {alert.key for alert in written}
    assert attackers == {command.key for command in sent if command.action == "suspend"}
    assert attackers >= {command.key for command in sent if command.action in HARMFUL}


def test_a_worker_without_its_topics_says_so_and_ends(deployment: Deployment) -> None:
    worker = deployment.start_real()
    assert worker.wait(30) == 1
    assert "missing: run `modelwarden topics create`" in deployment.log
