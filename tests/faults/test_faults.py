"""One round of the fault matrix; `python -m tests.faults --faults 200` does twenty, of every kind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .faults import FAULTS

KINDS = ["kill -9", "damaged state", "garbage events", "broker kill -9", "network cut", "SIGTERM"]
SEED = 1
"""Deals each of them once."""
ROOT = Path(__file__).parents[2]


@pytest.mark.kafka
@pytest.mark.timeout(900)
def test_after_any_fault_every_key_alert_and_command_is_right(tmp_path: Path) -> None:
    """In a process of its own: what is killed and cut here leaves loops and sockets behind on purpose."""
    if not all(map(shutil.which, ("java", "mvn"))) and not os.environ.get("CI"):
        pytest.skip("no Java or no Maven on the PATH: no broker that may be hurt")
    assert set(KINDS) <= set(FAULTS)
    only = [word for kind in KINDS for word in ("--only", kind)]
    found = tmp_path / "results.jsonl"
    words = ("--faults", str(len(KINDS)), "--seed", str(SEED), "--results", str(found), *only)
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", *words],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=840,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    (result,) = (json.loads(line) for line in found.read_text(encoding="utf-8").splitlines())
    assert sorted(result["kinds"]) == sorted(KINDS)
    assert not result["wrong"], result
    assert result["events"] > 1000
    assert result["fallbacks"] > 0, "the damaged snapshot was never read"
