"""The worker as a process on a real broker: killed, stalled, misconfigured."""

from __future__ import annotations

import json
import random
import re
import signal
import time
from collections import Counter, defaultdict
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from click.testing import CliRunner
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import ConfigResource
from kafka.errors import MessageSizeTooLargeError
from prometheus_client.parser import text_string_to_metric_families
from worker_deployment import PARTITIONS, Deployment, deployed

import streams.samples
from detectors.alert import Alert
from sinks.audit import Verifier
from sinks.policyfile import load_policy
from sinks.records import Command, DeadLetter, Feedback
from sinks.serving.event import encode_event
from sinks.signing import key_id, load_public_key, verify
from streams.cli import main
from streams.localkafka import free_port
from streams.pipeline import build_pipeline
from streams.samples import load_sample
from streams.settings import load_settings
from streams.topics import create_topics
from streams.traces import arrival_order
from streams.warmup import warm_up

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


pytestmark = pytest.mark.kafka

SEED = 20_261_123
STOP_S = 40
"""A stop in the middle of a rebalance waits for the other members."""
HARMFUL = {"throttle", "suspend", "revoke"}
REFERENCES = Path(str(streams.samples.__file__)).parent


@pytest.fixture(scope="module", autouse=True)
def warm_kernels() -> None:
    """Compile once: a busy machine may take longer for that than a test waits for a worker."""
    warm_up(build_pipeline, load_settings(None, {"MODELWARDEN_REFERENCES_PATH": str(REFERENCES)}))


@pytest.fixture
def deployment(kafka_broker: str, tmp_path: Path) -> Iterator[Deployment]:
    with deployed(kafka_broker, tmp_path) as made:
        yield made


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
    deployment.environ["PAUSE_S"] = "0.3"  # 60 chunks, so that all kills come before the end
    draw = random.Random(SEED)  # noqa: S311 - moments, not secrets
    for _ in range(3):
        before = deployment.bus.end_offsets(f"{deployment.prefix}alerts")
        worker = deployment.start_counting()
        deployment.wait(lambda: deployment.bus.end_offsets(f"{deployment.prefix}alerts") != before)  # noqa: B023
        time.sleep(draw.random())
        worker.kill()
        assert worker.wait() == -signal.SIGKILL
        assert deployment.counts() != truth, "the kill came too late to prove anything"
    deployment.environ["PAUSE_S"] = "0"
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
    assert deployment.counts() != truth, "the stall came too late to prove anything"
    deployment.wait(lambda: deployment.members() == 1)  # the other worker has taken over
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


def expected_outputs(deployment: Deployment) -> tuple[list[Alert], list[Command], list[tuple[int, bytes]]]:
    """Outputs of the same partitions, run through pipelines that nobody kills."""
    names = ("REFERENCES", "SIGNING", "POLICY")
    environ = {name: v for name, v in deployment.environ.items() if any(part in name for part in names)}
    settings = load_settings(None, environ)
    pipelines = {partition: build_pipeline(settings) for partition in range(PARTITIONS)}
    for partition, pipeline in pipelines.items():
        pipeline.set_place(partition, PARTITIONS)
    alerts: list[Alert] = []
    audit: list[tuple[int, bytes]] = []
    commands: list[Command] = []
    for chunk in deployment.bus.read([f"{deployment.prefix}events"]):
        outputs = pipelines[chunk[0].partition].process(chunk)
        alerts += outputs.alerts
        commands += outputs.commands
        audit += [(chunk[0].partition, msgspec.json.encode(entry)) for entry in outputs.audit]
    return alerts, commands, audit


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
    alerts, commands, chain = expected_outputs(deployment)
    deployment.wait(lambda: deployment.size("alerts") >= len(alerts))
    deployment.wait(lambda: deployment.size("commands") >= len(commands))
    deployment.wait(lambda: deployment.size("audit") >= len(chain))
    worker.terminate()
    assert worker.wait(STOP_S) == 0

    def in_order(records: Iterable[Alert | Command]) -> list[bytes]:
        return sorted(msgspec.json.encode(record) for record in records)

    written = [msgspec.json.decode(m.value or b"", type=Alert) for m in deployment.read("alerts")]
    assert in_order(written) == in_order(alerts), "as without the kills"
    sent = read_commands(deployment, public_keys)
    assert in_order(sent) == in_order(commands), "as without the kills, sequence numbers included"
    audit = [(m.partition, m.value or b"") for m in deployment.read("audit")]
    assert sorted(audit) == sorted(chain), "one chain a partition, as without the kills"
    verifier = Verifier()
    for partition, value in audit:
        verifier.add(value, partition, "audit")
    assert (verifier.faults, len(verifier.heads)) == ([], PARTITIONS)
    for topic in ("alerts", "decisions", "commands", "audit"):
        ids = deployment.ids(topic)
        assert len(set(ids)) == len(ids) > 0, topic
    attackers = {trace.key_reference for trace in traces if trace.attack is not None}
    assert len(attackers) >= 10
    assert attackers <= {alert.key for alert in written}
    assert attackers == {command.key for command in sent if command.action == "suspend"}
    assert attackers >= {command.key for command in sent if command.action in HARMFUL}
    assert set(re.findall(r"worker_ready.*generation=(\d+)", deployment.log)) == {"1"}, (
        "a static member comes back without a rebalance"
    )


def get(deployment: Deployment, path: str) -> str:
    connection = HTTPConnection("127.0.0.1", int(deployment.environ["MODELWARDEN_METRICS__PORT"]))
    connection.request("GET", path)
    text = connection.getresponse().read().decode()
    connection.close()
    return text


def scrape(deployment: Deployment) -> tuple[str, dict[str, float]]:
    """The worker's metrics: the text, and each name's sum over its labels."""
    text = get(deployment, "/metrics")
    sums: defaultdict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            sums[sample.name] += sample.value
    return text, sums


def send_oversized(deployment: Deployment, key: str) -> list[int]:
    """Put messages that are too large for the worker among the events of a key; return their sizes."""
    address, topic = deployment.environ["MODELWARDEN_KAFKA"], f"{deployment.prefix}events"
    noise = random.Random(SEED).randbytes(10_000_000)  # noqa: S311 - a filler, not a secret

    def send(value: bytes, compression: str | None = None) -> bool:
        producer = KafkaProducer(
            bootstrap_servers=address, max_request_size=2 * len(noise), compression_type=compression
        )
        try:
            producer.send(topic, value, key=key.encode()).get(STOP_S)
        except MessageSizeTooLargeError:
            return False
        finally:
            producer.close()
        return True

    assert send(noise[:1_500_000])
    assert send(bytes(len(noise)), "gzip"), "the broker's limit is on what is sent"
    assert not send(noise), "the broker refuses this to its sender"
    admin = KafkaAdminClient(bootstrap_servers=address)
    admin.alter_configs([ConfigResource("TOPIC", topic, {"max.message.bytes": "16777216"})])
    admin.close()
    deployment.wait(lambda: send(noise))  # larger than one fetch of the worker
    return [1_500_000, len(noise), len(noise)]


def check_metrics(deployment: Deployment, key: str, refused: int) -> None:
    text, sums = scrape(deployment)
    assert sums["modelwarden_alerts_total"] == deployment.size("alerts")
    assert sums["modelwarden_commands_total"] == deployment.size("commands")
    assert f'modelwarden_rejections_total{{reason="too_large"}} {refused:.1f}' in text
    assert sums["modelwarden_snapshot_seconds_count"] > 0
    assert sums["modelwarden_state_bytes"] > 0
    assert "modelwarden_consumer_lag_records" in sums
    deployment.wait(lambda: key in scrape(deployment)[0])
    told = {line.partition("{")[0] for line in scrape(deployment)[0].splitlines() if key in line}
    assert told == {"modelwarden_flagged_key_level", "modelwarden_flagged_key_evidence_log10"}
    for path in ("/livez", "/readyz", "/startupz"):
        assert get(deployment, path) == "ok\n"


def send_bad_policies(deployment: Deployment, good: bytes) -> None:
    """Publish what must be refused: wrong, tampered with, sent again, unsigned; the worker says which."""
    bad = {
        "$.policy.mode": good.replace(b'"enforce"', b'"enfroce"', 1),
        "signature does not hold": good.replace(b'"a test"', b'"a toast"'),
        "not above 1": good,
        "not a signed policy": b"mode: enforce",
    }
    assert len(set(bad.values())) == len(bad)
    for value in bad.values():
        deployment.bus.send(f"{deployment.prefix}policy", value, key=b"bad")
    deployment.bus.flush()
    deployment.wait(lambda: deployment.log.count("policy_refused") >= len(bad))
    refused = [line for line in deployment.log.splitlines() if "policy_refused" in line]
    for line, why in zip(refused, bad, strict=True):
        assert why in line
    deployment.wait(lambda: scrape(deployment)[1]["modelwarden_policy_refused_total"] == len(bad))


def test_faust_worker_takes_up_a_policy_keeps_good_events_and_a_restore_stays_the_last_word(
    deployment: Deployment,
) -> None:
    create_topics(deployment.environ["MODELWARDEN_KAFKA"], prefix=deployment.prefix, partitions=PARTITIONS)
    public_keys = enforce(deployment)
    deployment.environ |= {
        "MODELWARDEN_METRICS__ENABLED": "true",
        "MODELWARDEN_METRICS__PORT": str(free_port()),
    }
    attacks = {trace.attack: trace for trace in load_sample() if trace.victim == "mnist"}
    (first, early), (second, late) = (
        (trace.key_reference, [(trace.key_reference, encode_event(event)) for event in trace.events()])
        for trace in (attacks["uniform"], attacks["knockoff_rand_kmnist"])
    )
    worker = deployment.start_faust()
    deployment.wait(lambda: deployment.members() == 1)
    count = send_events(deployment, early[:100])
    deployment.wait(lambda: scrape(deployment)[1]["modelwarden_events_total"] == count)
    assert deployment.size("commands") == 0, "the default policy only observes"

    policy = load_policy(None, "enforce")
    signed = deployment.publish_policy(policy)
    deployment.wait(lambda: deployment.log.count("policy_in_force") == PARTITIONS)
    send_bad_policies(deployment, msgspec.json.encode(signed))
    count += send_events(deployment, late[:10])
    sizes = send_oversized(deployment, second)
    count += send_events(deployment, late[10:100])
    deployment.wait(lambda: scrape(deployment)[1]["modelwarden_events_total"] == count)
    letters = [msgspec.json.decode(m.value or b"", type=DeadLetter) for m in deployment.read("dead-letter")]
    assert [(letter.reason, letter.size_bytes) for letter in letters] == [("too_large", n) for n in sizes]
    commands = read_commands(deployment, public_keys)
    assert {command.policy_version for command in commands} == {policy.policy_version}
    assert "suspend" in {command.action for command in commands if command.key == second}
    assert first in {json.loads(m.value or b"")["key"] for m in deployment.read("alerts")}
    check_metrics(deployment, second, len(sizes))

    word = Feedback(key=second, verdict="honest", author="ann", reason="an audit of ours", time_ms=1)
    deployment.bus.send(f"{deployment.prefix}feedback", msgspec.json.encode(word), key=second.encode())
    deployment.bus.flush()
    deployment.wait(lambda: deployment.size("commands") > len(commands))
    worker.kill()
    worker.wait()
    send_events(deployment, late[100:])
    worker = deployment.start_faust()
    deployment.wait(deployment.is_stored)
    worker.terminate()
    assert worker.wait(STOP_S) == 0
    after = read_commands(deployment, public_keys)
    assert [command.action for command in after[len(commands) :]] == ["restore"]


def test_a_worker_without_its_topics_says_so_and_ends(deployment: Deployment) -> None:
    worker = deployment.start_real()
    assert worker.wait(30) == 1
    assert "missing: run `modelwarden topics create`" in deployment.log


@pytest.mark.kafka
def test_two_workers_with_one_instance_id_end_and_say_so(deployment: Deployment) -> None:
    create_topics(deployment.environ["MODELWARDEN_KAFKA"], prefix=deployment.prefix, partitions=PARTITIONS)
    deployment.environ["MODELWARDEN_CONSUMER_INSTANCE_ID"] = "worker-0"
    workers = [deployment.start_real(), deployment.start_real()]
    deadline = time.monotonic() + 60
    while all(worker.poll() is None for worker in workers):
        assert time.monotonic() < deadline, deployment.log
        time.sleep(0.1)
    assert 1 in {worker.poll() for worker in workers}
    assert "consumer_instance_id worker-0: another worker of this consumer group has it too" in deployment.log
