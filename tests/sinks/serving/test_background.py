"""A background thread runs once, ends when told, and can begin again."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from sinks.serving.background import BackgroundThread

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


def test_stop_without_a_thread_is_harmless() -> None:
    made = BackgroundThread("test", lambda: None)
    made.stop()
    assert made.stopping.is_set()
