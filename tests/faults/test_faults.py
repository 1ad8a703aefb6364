"""One round of the fault matrix; `python -m tests.faults --faults 200` does twenty, of every kind."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from .__main__ import run_round
from .cluster import Broker
from .faults import FAULTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KINDS = ["kill -9", "damaged state", "garbage events", "broker kill -9", "network cut", "SIGTERM"]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    if not all(map(shutil.which, ("java", "mvn"))) and not os.environ.get("CI"):
        pytest.skip("no Java or no Maven on the PATH: no broker that may be hurt")
    made = Broker(tmp_path / "kafka")
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.mark.kafka
@pytest.mark.timeout(900)
def test_after_any_fault_every_key_alert_and_command_is_right(broker: Broker, tmp_path: Path) -> None:
    assert set(KINDS) <= set(FAULTS)
    result = run_round(broker, tmp_path / "round", 7, KINDS)
    assert not result["wrong"], (result, (tmp_path / "round" / "log").read_text(errors="replace")[-8000:])
    assert result["events"] > 1000
    assert result["fallbacks"] > 0, "the damaged snapshot was never read"
