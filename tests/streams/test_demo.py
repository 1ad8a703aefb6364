"""The demonstration: the simulated serving layer obeys, and the whole run keeps its promises."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sinks.errors import SigningError
from sinks.records import Action, Command, ServingEvent
from sinks.signing import Signer
from streams.demo import attack_results
from streams.samples import load_sample
from streams.sandbox import ATTACK_WORDS, Sandbox, spread_attacks

if TYPE_CHECKING:
    from pathlib import Path

    from streams.traces import KeyTrace


def command(key: str, action: Action, *, issued_ms: int, expires_ms: int) -> Command:
    return Command(
        command_id="0" * 32,
        action=action,
        key=key,
        issued_ms=issued_ms,
        expires_ms=expires_ms,
        rule="test",
        policy_version="1",
        alert_id="0" * 32,
        reason="test",
    )


@pytest.fixture(scope="module")
def sample() -> list[KeyTrace]:
    return load_sample()


def attack_of(sample: list[KeyTrace]) -> KeyTrace:
    return next(trace for trace in sample if trace.attack == "uniform" and trace.victim == "mnist")


def test_calls_become_events_in_order_of_time(sample: list[KeyTrace]) -> None:
    sent: list[tuple[str, bytes]] = []
    sandbox = Sandbox(sample[:3], lambda key, value: sent.append((key, value)))
    times = list(sandbox.calls())
    events = [msgspec.json.decode(value, type=ServingEvent) for _, value in sent]
    assert times == sorted(times)
    assert [event.time_ms for event in events] == times
    assert all(key == event.key for (key, _), event in zip(sent, events, strict=True))
    assert sandbox.answered == sandbox.calls_planned == sum(map(len, sample[:3]))


@pytest.mark.parametrize("action", ["suspend", "revoke"])
def test_stopped_key_is_refused_until_the_command_expires(sample: list[KeyTrace], action: Action) -> None:
    trace = attack_of(sample)
    sent: list[str] = []
    sandbox = Sandbox([trace], lambda key, _: sent.append(key))
    start, end = int(trace.time_ms[99]), int(trace.time_ms[500])
    for made, time_ms in enumerate(sandbox.calls(), 1):
        if made == 100:
            sandbox.obey(command(trace.key_reference, action, issued_ms=time_ms, expires_ms=end))
    refused = int(((trace.time_ms >= start) & (trace.time_ms < end)).sum()) - 1
    assert 0 < refused < 800
    assert sandbox.refused == refused
    assert len(sent) == sandbox.answered == len(trace) - refused
    (result,) = attack_results(sandbox)
    assert result.stopped_at_query == 100
    assert result.saved_share == round(refused / 900, 4)


def test_restored_key_is_answered_again_and_throttled_calls_are_counted(sample: list[KeyTrace]) -> None:
    trace = attack_of(sample)
    sandbox = Sandbox([trace], lambda *_: None)
    late = int(trace.time_ms[-1]) + 1
    steps: dict[int, Action] = {100: "suspend", 200: "restore", 300: "throttle"}
    for made, time_ms in enumerate(sandbox.calls(), 1):
        if made in steps:
            sandbox.obey(command(trace.key_reference, steps[made], issued_ms=time_ms, expires_ms=late))
    (customer,) = sandbox.customers.values()
    assert (customer.refused, customer.throttled, customer.answered) == (100, 600, 800)


def test_only_commands_of_a_trusted_signer_are_obeyed(sample: list[KeyTrace]) -> None:
    trace, signer = attack_of(sample), Signer(Ed25519PrivateKey.generate())
    sandbox = Sandbox([trace], lambda *_: None, {signer.key_id: signer.public_key})
    suspend = command(trace.key_reference, "suspend", issued_ms=0, expires_ms=2**40)
    forged = Signer(Ed25519PrivateKey.generate()).sign(suspend)
    altered = msgspec.structs.replace(signer.sign(suspend), expires_ms=2**41)
    for bad in (suspend, forged, altered):
        with pytest.raises(SigningError):
            sandbox.receive(msgspec.json.encode(bad))
    assert sandbox.keys_stopped == 0
    sandbox.receive(msgspec.json.encode(signer.sign(suspend)))
    assert sandbox.keys_stopped == 1


def test_a_customer_who_feels_a_command_counts_as_harmed(sample: list[KeyTrace]) -> None:
    sandbox = Sandbox(sample[:2], lambda *_: None)
    first, second = sandbox.customers
    sandbox.obey(command(first, "watch", issued_ms=0, expires_ms=1))
    assert sandbox.keys_harmed == 0
    sandbox.obey(command(second, "throttle", issued_ms=0, expires_ms=1))
    assert sandbox.keys_harmed == 1


def test_attacks_start_among_the_customers_at_their_own_pace(sample: list[KeyTrace]) -> None:
    moved = spread_attacks(sample)
    before = {trace.key_reference: trace for trace in sample}
    benign = np.sort(np.concatenate([trace.time_ms for trace in moved if trace.attack is None]))
    starts = []
    for trace in moved:
        original = before[trace.key_reference]
        assert np.array_equal(np.diff(trace.time_ms), np.diff(original.time_ms))
        if trace.attack is None:
            assert np.array_equal(trace.time_ms, original.time_ms)
        else:
            starts.append(np.searchsorted(benign, trace.time_ms[0]) / len(benign))
    assert np.diff(sorted([0.0, *starts, 1.0])).max() < 0.2


def test_every_attack_of_the_sample_has_words(sample: list[KeyTrace]) -> None:
    assert {str(trace.attack) for trace in sample if trace.attack} <= ATTACK_WORDS.keys()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Run the whole demonstration as a user does, without a terminal."""
    folder = tmp_path_factory.mktemp("demo")
    code = "from streams.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "demo", "--speed", "0", "-o", "json"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_demo_stops_every_attack_and_harms_nobody(run: tuple[Path, dict[str, Any]]) -> None:
    _, result = run
    assert result["events"] >= 20_000
    assert result["benign_watched"] >= 60
    assert result["benign_harmed"] == 0
    assert len(result["attacks"]) >= 5
    for attack in result["attacks"]:
        assert attack["alerted_at_query"] is not None, attack
        assert attack["stopped_at_query"] >= attack["alerted_at_query"], attack
        assert attack["queries_answered"] + round(
            attack["saved_share"] * attack["queries_wanted"]
        ) == pytest.approx(attack["queries_wanted"], abs=1)
        assert attack["saved_share"] > 0, attack
        assert attack["sentence"], attack


def test_demo_writes_records_that_agree_with_the_table(run: tuple[Path, dict[str, Any]]) -> None:
    folder, result = run
    files = {what: folder / path for what, path in result["files"].items()}
    alerts, commands = lines(files["alerts"]), lines(files["commands"])
    alert_ids = {alert["alert_id"] for alert in alerts}
    assert len(alert_ids) == len(alerts)
    assert all(item["alert_id"] in alert_ids and item["signature"] for item in commands)
    assert {attack["key"] for attack in result["attacks"]} <= {item["key"] for item in commands}
    assert len(lines(files["decisions"])) >= len(commands)
    record = json.loads(files["record"].read_text())
    assert record["result"]["attacks"] == result["attacks"]
    assert {"modelwarden", "numpy"} <= record["versions"].keys()
