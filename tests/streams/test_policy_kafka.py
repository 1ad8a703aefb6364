"""Policy by command on a real broker: publish, undo, allow, roll back; the audit chain over a kill -9."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from click.testing import CliRunner
from worker_deployment import PARTITIONS, Deployment, deployed

import streams.samples
from sinks.records import AuditEntry, Command
from sinks.serving.event import encode_event
from streams.cli import main
from streams.samples import load_sample
from streams.topics import create_topics

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(600)]

WAIT_S = 240
SAMPLES = Path(str(streams.samples.__file__)).parent
POLICY = """
version: strict-1
mode: enforce
holdout_share: 0.0
rules:
  - name: stop
    title: Stop what is odd
    maturity: stable
    conditions: {levels: [warning, critical]}
    action: suspend
    duration_s: 31536000
    false_positives: [any]
"""


@pytest.fixture
def deployment(kafka_broker: str, tmp_path: Path) -> Iterator[Deployment]:
    environ = {
        "MODELWARDEN_REFERENCES_PATH": str(SAMPLES),
        "MODELWARDEN_SIGNING_KEY_FILE": str(tmp_path / "worker.pem"),
        "MODELWARDEN_TRUSTED_KEYS_FILE": str(tmp_path / "trusted.yaml"),
    }
    with deployed(kafka_broker, tmp_path, **environ) as made:
        yield made


def call(deployment: Deployment, *words: str, code: int = 0) -> Any:
    ours = {name: value for name, value in deployment.environ.items() if name.startswith("MODELWARDEN_")}
    result = CliRunner().invoke(main, list(words), env=ours)
    assert result.exit_code == code, result.output
    return result


def by_ana(deployment: Deployment, *words: str) -> Any:
    """What a person decides, as JSON."""
    key = str(deployment.folder / "ana.pem")
    options = ("--signing-key", key, "--as", "ana", "--reason", "a test", "-o", "json")
    return json.loads(call(deployment, *words, *options).stdout)


def make_keys(deployment: Deployment) -> None:
    """A worker's key that may sign commands only, and a person's that may sign the rest."""
    folder, trusted = deployment.folder, str(deployment.folder / "trusted.yaml")
    for name, purposes in (("worker", ["commands"]), ("ana", ["policy", "operators"])):
        call(deployment, "policy", "keygen", str(folder / f"{name}.pem"))
        options = [word for purpose in purposes for word in ("--for", purpose)]
        call(deployment, "policy", "trust", str(folder / f"{name}.pem.pub"), "--to", trusted, *options)


def send(deployment: Deployment, key: str, events: list[bytes]) -> None:
    for event in events:
        deployment.bus.send(f"{deployment.prefix}events", event, key=key.encode())
    deployment.bus.flush()


def commands(deployment: Deployment, key: str) -> list[str]:
    found = [msgspec.json.decode(m.value or b"", type=Command) for m in deployment.read("commands")]
    return [command.action for command in found if command.key == key]


def wait(deployment: Deployment, what: Any) -> None:
    deployment.wait(what, WAIT_S)


def test_people_rule_by_command_and_everything_stands_in_the_chain(deployment: Deployment) -> None:
    create_topics(deployment.environ["MODELWARDEN_KAFKA"], prefix=deployment.prefix, partitions=PARTITIONS)
    make_keys(deployment)
    attacks = {trace.attack: trace for trace in load_sample() if trace.victim == "mnist"}
    (first, early), (second, late) = (
        (trace.key_reference, [encode_event(event) for event in trace.events()])
        for trace in (attacks["uniform"], attacks["knockoff_rand_kmnist"])
    )
    strict, watch = deployment.folder / "strict.yaml", deployment.folder / "watch.yaml"
    strict.write_text(POLICY, encoding="utf-8")
    watch.write_text(POLICY.replace("mode: enforce", "mode: observe"), encoding="utf-8")
    by_ana(deployment, "policy", "push", str(watch))
    worker = deployment.start_real()
    wait(deployment, lambda: deployment.members() == 1)
    pushed = by_ana(deployment, "policy", "push", str(strict))
    assert pushed["sequence"] == 2
    wait(deployment, lambda: deployment.log.count("policy_in_force") >= PARTITIONS)

    send(deployment, first, early[:150])
    send(deployment, second, late[:150])
    wait(deployment, lambda: all("suspend" in commands(deployment, key) for key in (first, second)))
    kafka = ("--kafka", deployment.environ["MODELWARDEN_KAFKA"])
    listed = json.loads(call(deployment, "decisions", "list", "--sent", *kafka, "-o", "json").stdout)
    undone = next(decision for decision in listed if decision["key"] == first)
    by_ana(deployment, "decisions", "undo", undone["decision_id"][:12])
    by_ana(deployment, "allowlist", "add", "--key", second, "--purpose", "evaluation", "--for", "90d")
    wait(deployment, lambda: all(commands(deployment, key)[-1] == "restore" for key in (first, second)))
    worker.kill()
    worker.wait()
    send(deployment, first, early[150:])
    send(deployment, second, late[150:])
    worker = deployment.start_real()
    wait(deployment, deployment.is_stored)
    assert commands(deployment, first).count("restore") == commands(deployment, second).count("restore") == 1
    assert commands(deployment, first)[-1] == commands(deployment, second)[-1] == "restore", "both hold"

    before = deployment.log.count("policy_in_force")
    back = by_ana(deployment, "policy", "rollback")
    assert (back["sequence"], back["rollback_to"], back["policy"].get("mode", "observe")) == (3, 1, "observe")
    wait(deployment, lambda: deployment.log.count("policy_in_force") == before + PARTITIONS)
    worker.terminate()
    assert worker.wait(40) == 0
    check_audit(deployment)


def check_audit(deployment: Deployment) -> None:
    kafka = ("--kafka", deployment.environ["MODELWARDEN_KAFKA"])
    said = json.loads(call(deployment, "audit", "verify", *kafka, "-o", "json").stdout)
    assert (said["holds"], said["faults"]) == (True, [])
    heads = deployment.folder / "heads.json"
    heads.write_text(call(deployment, "audit", "heads", *kafka, "-o", "json").stdout, encoding="utf-8")
    call(deployment, "audit", "verify", *kafka, "--heads", str(heads))
    entries = [msgspec.json.decode(m.value or b"", type=AuditEntry) for m in deployment.read("audit")]
    assert {"alert", "decision", "operator_action", "policy", "allow"} <= {entry.kind for entry in entries}
    findings = call(deployment, "audit", "export", "--format", "ocsf", *kafka).stdout.splitlines()
    assert {json.loads(finding)["class_uid"] for finding in findings} == {2004}
    true = next(m for m in deployment.read("audit") if b'"kind":"alert"' in (m.value or b""))
    forged = (true.value or b"").replace(b'"query_count":', b'"query_count":1')
    assert forged != true.value
    deployment.bus.send(f"{deployment.prefix}audit", forged, partition=true.partition)
    deployment.bus.flush()
    broken = json.loads(call(deployment, "audit", "verify", *kafka, "-o", "json", code=1).stdout)
    assert {fault["kind"] for fault in broken["faults"]} >= {"changed"}
