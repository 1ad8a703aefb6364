"""`modelwarden doctor`, as a process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streams.topics import create_topics

MODELWARDEN = Path(sys.executable).with_name("modelwarden")


def doctor(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([MODELWARDEN, "doctor", *words], capture_output=True, text=True, check=False)


def test_an_unreachable_broker_is_named_within_ten_seconds() -> None:
    start = time.perf_counter()
    done = doctor("--kafka", "127.0.0.1:1")
    assert time.perf_counter() - start < 10
    assert done.returncode == 1
    assert not done.stderr
    assert "✘ FAIL  broker" in done.stdout
    assert "127.0.0.1:1 cannot be reached (Connection refused)" in done.stdout
    assert "modelwarden kafka up" in done.stdout
    assert "1 failed" in done.stdout


def test_json_holds_every_check() -> None:
    checks = json.loads(doctor("--kafka", "127.0.0.1:1", "-o", "json").stdout)
    by_name = {check["check"]: check for check in checks}
    assert {"python", "packages", "kernels", "settings", "policy", "references", "broker", "clock"} <= set(
        by_name
    )
    assert by_name["broker"]["status"] == "fail"
    assert all(check["do"] for check in checks if check["status"] != "ok")


@pytest.mark.kafka
def test_a_sound_deployment_is_ready(kafka_broker: str) -> None:
    create_topics(kafka_broker)
    done = doctor("--kafka", kafka_broker)
    assert done.returncode == 0, done.stdout
    assert "Ready" in done.stdout
