"""Each check finds what is wrong and says what to do."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import pytest

from sinks.signing import generate_key
from streams.clock import ManualClock, SystemClock
from streams.doctor import (
    Check,
    check_broker,
    check_clock,
    check_kernels,
    check_packages,
    check_policy,
    check_python,
    check_references,
    check_signing_key,
    check_topics,
    examine,
)
from streams.settings import Settings
from streams.topics import create_topics

if TYPE_CHECKING:
    from pathlib import Path


def assert_found(check: Check, status: str, *words: str) -> None:
    assert check.status == status, check
    for word in words:
        assert word in check.finding + " " + check.do
    assert (check.status == "ok") == (not check.do)


def test_this_installation_is_sound() -> None:
    for check in (check_python(), check_packages(), check_kernels()):
        assert_found(check, "ok")


def test_a_refused_connection_names_the_address() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert_found(check_broker(address), "fail", address, "refused", "MODELWARDEN_KAFKA", "kafka up")


def test_one_address_of_several_is_a_warning() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        good, bad = (f"127.0.0.1:{s.getsockname()[1]}" for s in (server, taken))
        assert_found(check_broker(f"{good},{bad}"), "warn", f"{good} answers", f"{bad} cannot be reached")
        assert_found(check_broker(good), "ok")


def test_an_unknown_host_is_named() -> None:
    assert_found(check_broker("no-such-host.invalid:9092"), "fail", "no-such-host.invalid:9092")


def test_a_port_that_is_no_kafka_ends_within_ten_seconds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        start = time.perf_counter()
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        checks = examine(None, {"MODELWARDEN_KAFKA": address})
        assert time.perf_counter() - start < 10
    topics = next(check for check in checks if check.check == "topics")
    assert_found(topics, "fail", address)


def test_policy(tmp_path: Path) -> None:
    assert_found(check_policy(Settings()), "ok", "mode observe")
    assert_found(check_policy(Settings(policy_mode="enforce")), "fail", "keygen")
    path = tmp_path / "policy.yaml"
    path.write_text("version: x\nrules:\n  - name: a\n    actoin: watch\n")
    assert_found(check_policy(Settings(policy_file=path)), "fail", str(path), "actoin")


def test_signing_key(tmp_path: Path) -> None:
    path = tmp_path / "signing.pem"
    settings = Settings(signing_key_file=path)
    assert_found(check_signing_key(Settings()), "ok", "none")
    assert_found(check_signing_key(settings), "fail", str(path), "keygen")
    key_id = generate_key(path)
    assert_found(check_signing_key(settings), "ok", key_id)
    path.chmod(0o640)
    assert_found(check_signing_key(settings), "warn", "0640", f"chmod 600 {path}")
    path.chmod(0o644)
    assert_found(check_signing_key(settings), "fail", f"chmod 600 {path}")
    path.chmod(0o600)
    path.write_text("not a key")
    assert_found(check_signing_key(settings), "fail", str(path))


def test_references(tmp_path: Path) -> None:
    assert_found(check_references(Settings()), "ok", "own traffic")
    assert_found(check_references(Settings(references_path=tmp_path)), "fail", str(tmp_path))
    (tmp_path / "m.reference").write_bytes(b"damaged")
    assert_found(check_references(Settings(references_path=tmp_path)), "fail", "m.reference")


def test_wrong_settings_end_the_examination_with_their_name(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("kafak: x:1\n")
    last = examine(path, {})[-1]
    assert last.check == "settings"
    assert_found(last, "fail", str(path), "kafak")


def test_a_clock_before_2026_is_wrong() -> None:
    assert_found(check_clock(Settings(), ManualClock(1_000_000_000_000), ask=False), "fail", "2026")
    assert_found(check_clock(Settings(), SystemClock(), ask=False), "ok")


@pytest.mark.kafka
def test_topics_and_clock_against_a_broker(kafka_broker: str) -> None:
    from streams.bus.kafka import KafkaBus  # noqa: PLC0415 - only where there is a broker

    settings = Settings(kafka=kafka_broker, topic_prefix="doctor.")
    assert_found(check_topics(settings), "fail", "doctor.events", "missing", "topics create")
    create_topics(kafka_broker, prefix="doctor.", partitions=2)
    assert_found(check_topics(settings), "ok", "2 partitions")
    assert_found(check_clock(settings, SystemClock(), ask=True), "ok", "no record")
    bus = KafkaBus(kafka_broker)
    bus.send("doctor.events", b"{}", key=b"k")
    bus.close()
    assert_found(check_clock(settings, SystemClock(), ask=True), "ok", "s ago")
    slow = ManualClock(SystemClock().now_ms() - 7_200_000)
    assert_found(check_clock(settings, slow, ask=True), "warn", "7,2", "3600 s ahead")
    environ = {"MODELWARDEN_KAFKA": kafka_broker, "MODELWARDEN_TOPIC_PREFIX": "doctor."}
    assert all(check.status != "fail" for check in examine(None, environ))
