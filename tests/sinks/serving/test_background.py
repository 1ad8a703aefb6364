"""A background thread runs once, ends when told, and can begin again."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from sinks.serving.background import BackgroundThread

if TYPE_CHECKING:
    import pytest

WAIT_S = 10.0


def test_many_that_start_it_at_once_make_one_thread() -> None:
    runs: list[threading.Thread] = []

    def run() -> None:
        runs.append(threading.current_thread())
        made.stopping.wait(WAIT_S)

    made = BackgroundThread("test", run)
    for rounds in (1, 2):
        with ThreadPoolExecutor(8) as pool:
            for _ in range(8):
                pool.submit(made.start)
        is_started = made.is_started
        made.stop()
        assert (is_started, made.is_started) == (True, False)
        assert len(runs) == rounds
        assert not any(thread.is_alive() for thread in runs)
    assert {thread.name for thread in runs} == {"modelwarden-test"}


def test_what_ends_the_thread_is_kept_and_logged_and_a_new_start_forgets_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    troubles = [OSError("the disk is full")]

    def run() -> None:
        if troubles:
            raise troubles.pop()
        made.stopping.wait(WAIT_S)

    made = BackgroundThread("test", run)
    made.start()
    made.stop()
    assert str(made.failure) == "the disk is full"
    assert "the thread modelwarden-test has ended" in caplog.text
    made.start()
    assert made.failure is None
    made.stop()


def test_stop_without_a_thread_is_harmless() -> None:
    made = BackgroundThread("test", lambda: None)
    made.stop()
    assert made.stopping.is_set()
