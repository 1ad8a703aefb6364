"""The process that annotates: its two threads share a file, and end together when the disk refuses."""

from __future__ import annotations

import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import pytest

from sinks.grafana.spool import SpoolError
from sinks.metrics import catalogue
from streams.annotate import run
from streams.bus.memory import MemoryBus
from streams.companion import Companion
from streams.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sinks.grafana.client import GrafanaClient


def make_run(folder: Path, client: GrafanaClient) -> tuple[Callable[[], None], Companion, Path]:
    """`annotate.run` on a bus in memory."""
    settings = Settings()
    bus = MemoryBus({settings.topic(name): 1 for name in ("alerts", "commands", "policy")})
    companion, path = Companion("annotate", 60.0), folder / "spool.db"
    return partial(run, bus, settings, client, path, companion), companion, path


def test_the_file_is_made_before_the_writer_opens_it_too(
    client: GrafanaClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two connections that make one file at once find it locked, one time in six."""
    tables: list[str] = []

    def look(_: GrafanaClient, path: Path, companion: Companion) -> None:
        with closing(sqlite3.connect(path)) as other:
            tables.extend(name for (name,) in other.execute("SELECT name FROM sqlite_master"))
        companion.stopped.set()

    monkeypatch.setattr("streams.annotate.write_spool", look)
    start, _, _ = make_run(tmp_path, client)
    start()
    assert {"waiting", "positions", "counts"} <= set(tables)


def test_a_disk_that_refuses_either_thread_ends_the_process_with_one_line(
    client: GrafanaClient, tmp_path: Path
) -> None:
    start, companion, path = make_run(tmp_path, client)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(start)
        while companion.instruments.value(catalogue.GRAFANA_UP) == 0:
            time.sleep(0.01)
        with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as other:
            other.execute("DROP TABLE waiting")
        with pytest.raises(SpoolError, match=r"spool .*spool\.db: no such table: waiting\. Free space or"):
            running.result(20)
    assert companion.stopped.is_set()
    path.write_bytes(b"not a database" * 100)
    start, companion, _ = make_run(tmp_path, client)
    with pytest.raises(SpoolError, match="file is not a database"):
        start()
