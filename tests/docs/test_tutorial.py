"""The scripted new user: follows the tutorial word by word, to a revoked attacker on a real broker."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streams.localkafka import free_port

sys.path.insert(0, str(Path(__file__).parent))
from blocks import ROOT, blocks

MOST_S = 600.0
ATTACKS = 3


@pytest.mark.kafka
@pytest.mark.timeout(MOST_S + 60)
def test_a_new_user_comes_to_a_revoked_attacker(tmp_path: Path) -> None:
    if shutil.which("mvn") is None or shutil.which("java") is None:
        pytest.skip("no Java and Maven to start a broker of one's own with")
    clone = tmp_path / "clone"
    clone.mkdir()
    for name in ("streams", "deploy"):
        (clone / name).symlink_to(ROOT / name)
    (clone / ".venv" / "bin").mkdir(parents=True)
    (clone / ".venv" / "bin" / "modelwarden").symlink_to(Path(sys.executable).with_name("modelwarden"))
    steps = [block.code for block in blocks(ROOT / "deploy" / "docs" / "tutorial.md") if block.note == "run"]
    script = "\n".join(["set -euo pipefail -m", *steps]).replace("9092", str(free_port()))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MODELWARDEN_")}
    began = time.monotonic()
    process = subprocess.Popen(
        ["bash", "-c", script], cwd=clone, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=MOST_S)
    except subprocess.TimeoutExpired:
        tidy(clone)
        said, _ = process.communicate()
        pytest.fail(f"not there after {MOST_S:.0f} s:\n{said}")
    finally:
        tidy(clone)
    assert process.returncode == 0, said
    orders = [
        json.loads(line) for line in (clone / "run/tutorial/revocations.jsonl").read_text().splitlines()
    ]
    assert [order["action"] for order in orders] == ["revoke"] * ATTACKS
    assert len({order["key"] for order in orders}) == ATTACKS
    sys.stderr.write(f"The tutorial took {time.monotonic() - began:.0f} s\n")


def tidy(clone: Path) -> None:
    """Stop what a broken tutorial may have left, by what it was started in."""
    mine = str(clone).encode()
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            cwd = str((directory / "cwd").readlink()).encode()
            if cwd.startswith(mine):
                os.kill(int(directory.name), 9)
        except OSError:
            continue
