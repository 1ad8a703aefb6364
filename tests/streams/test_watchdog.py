"""The watchdog: what is a stall, what is merely slow, and that a real worker ends with the code for it."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st
from worker_deployment import PARTITIONS, deployed

from streams import watchdog
from streams.localkafka import LocalKafka
from streams.topics import create_topics
from streams.watchdog import LOOKS, RESTART_EXIT_CODE, StallDetector

if TYPE_CHECKING:
    from pathlib import Path

PLACE = TP("events", 0)

STUCK = """
import asyncio, time
from streams.settings import WatchdogSettings
from streams import watchdog
watchdog.TICK_S = 0.05
dog = watchdog.Watchdog(WatchdogSettings({settings}), dict, lambda: False, None)
async def main():
    task = asyncio.create_task(dog.run())
    await asyncio.sleep(0.2)
    {block}
    await asyncio.sleep(30)
asyncio.run(main())
"""


def looks(*pairs: tuple[int, int]) -> list[bool]:
    detector = StallDetector(LOOKS)
    return [detector.look({PLACE: position}, {PLACE: end}) for position, end in pairs]


def test_a_position_that_stands_still_while_the_lag_grows_is_a_stall() -> None:
    told = looks((5, 5), *[(5, 6 + number) for number in range(LOOKS)])
    assert told == [False] * LOOKS + [True]


def test_a_lag_that_does_not_grow_is_no_stall() -> None:
    """Control records of transactions stand behind the last event and are never in the state."""
    assert not any(looks(*[(5, 6)] * 50))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.data())
def test_one_record_now_and_then_is_progress(steps: list[int], data: st.DataObject) -> None:
    detector, position, end, still = StallDetector(LOOKS), 0, 0, 0
    for step in steps:
        moved = data.draw(st.booleans()) and position < end
        position, end = position + moved, end + step
        still = 0 if moved else still + 1
        assert not detector.look({PLACE: position}, {PLACE: end}) or still >= LOOKS


def test_taking_over_partitions_is_progress() -> None:
    detector = StallDetector(2)
    for number in range(9):
        here = {TP("events", number): 0}
        assert not detector.look(here, dict.fromkeys(here, 10))


def end_of(settings: str, block: str) -> subprocess.CompletedProcess[str]:
    code = STUCK.format(settings=settings, block=block)
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


def test_a_blocked_event_loop_ends_the_process_and_tells_where_it_stood() -> None:
    ended = end_of("loop_stuck_s=1", "time.sleep(40)")
    assert ended.returncode == RESTART_EXIT_CODE
    assert "event loop has been stuck" in ended.stdout + ended.stderr
    assert 'File "<string>", line 10 in main' in ended.stderr


def test_a_busy_loop_that_turns_is_left_alone() -> None:
    ended = end_of("loop_stuck_s=1", "[await asyncio.sleep(0.01) for _ in range(300)]; return")
    assert ended.returncode == 0, ended.stderr


def test_too_much_memory_asks_for_a_graceful_end() -> None:
    ended = end_of("memory_limit_bytes=1000", "")
    assert ended.returncode == -15, "SIGTERM, which Faust handles with a last snapshot"
    assert "more than the limit of 1,000" in ended.stdout + ended.stderr


@pytest.mark.parametrize("begin", ["dog.expect_end()", "task.cancel()"])
def test_an_end_that_does_not_come_is_cut_short(begin: str) -> None:
    """Brokers that are gone hold up what closes connections to them, after a signal and after a failure."""
    ended = end_of("loop_stuck_s=2", f"watchdog.STOP_TICKS = 50; {begin}")
    assert ended.returncode == RESTART_EXIT_CODE
    assert "told to stop, and did not end" in ended.stdout + ended.stderr


def test_an_end_that_comes_is_left_alone() -> None:
    ended = end_of(
        "loop_stuck_s=1",
        "watchdog.STOP_TICKS = 60; dog.expect_end(); task.cancel(); await asyncio.sleep(1.5); return",
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.kafka
@pytest.mark.usefixtures("kafka_broker")
def test_a_worker_told_to_stop_ends_though_its_brokers_are_gone(tmp_path: Path) -> None:
    """On a node of its own, for others need the shared one; left alone, this takes a minute or more."""
    node = LocalKafka(tmp_path / "kafka", tell=print)
    with deployed(node.start(), tmp_path, STOP_TICKS="5") as deployment:
        create_topics(
            deployment.environ["MODELWARDEN_KAFKA"], prefix=deployment.prefix, partitions=PARTITIONS
        )
        worker = deployment.start_counting()
        deployment.wait(lambda: deployment.members() == 1)
        node.stop()
        time.sleep(1.0)
        worker.terminate()
        assert worker.wait(30) == RESTART_EXIT_CODE, deployment.log[-4000:]
        assert "it was told to stop, and did not end within 5 s" in deployment.log


def test_the_container_limit_leaves_a_tenth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(watchdog, "_CGROUP_LIMITS", (tmp_path / "none", limit))
    for text, wanted in (("1000\n", 900), ("max\n", None), (f"{1 << 63}\n", None)):
        limit.write_text(text)
        assert watchdog.container_limit_bytes() == wanted
