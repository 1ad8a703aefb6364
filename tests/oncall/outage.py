"""Grafana away while thousands of annotations are offered, and the sink killed: what became of them."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import msgspec
from alerts import make_alert
from grafana_double import GrafanaDouble

from sinks.grafana.spool import Spool
from streams.bus.kafka import KafkaBus
from streams.localkafka import free_port
from streams.topics import create_topics

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SEED = 20_261_125
RECOVERY_S = 120.0


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the annotations."""

    offered: int
    written: int
    """As the sink counts, without summaries."""
    summaries: int
    coalesced: int
    dropped: int
    doubled: int
    """Annotations that Grafana holds more than once."""
    unaccounted: int
    """Offered, and neither written nor coalesced nor dropped, or counted as written and not there."""
    kills: int
    recovery_s: float
    """From the end of the outage until nothing waits."""
    sink_cpu_s: float
    """Processor time of all sinks."""


def run_outage(
    kafka: str,
    folder: Path,
    *,
    annotations: int,
    outage_s: float,
    kills: int,
    tell: Callable[[str], None] = lambda _: None,
) -> Report:
    """Offer annotations evenly over an outage, kill the sink now and then, bring Grafana back and look."""
    prefix, folder = f"outage-{uuid4().hex[:8]}.", folder.resolve()
    create_topics(kafka, prefix=prefix, partitions=2)
    bus, server = KafkaBus(kafka), GrafanaDouble()
    draw = random.Random(SEED)  # noqa: S311 - moments, not secrets
    server.port = free_port()
    environ = os.environ | {
        "MODELWARDEN_KAFKA": kafka,
        "MODELWARDEN_TOPIC_PREFIX": prefix,
        "MODELWARDEN_GRAFANA_URL": server.url,
        "MODELWARDEN_GRAFANA_TOKEN": "token",
    }
    path = folder / "spool.db"
    cpu_s = resource.getrusage(resource.RUSAGE_CHILDREN)
    sink = _start(environ, path, folder)
    killed = 0
    try:
        _wait(lambda: path.exists() and bool(_spool(path, Spool.positions)), 60)
        begin_s = time.monotonic()
        kill_at = sorted(draw.uniform(0.1, 0.9) * annotations for _ in range(kills))
        for number in range(annotations):
            key = f"k0-{number:032x}"
            alert = make_alert(number, key=key, level="critical", time_ms=1_700_000_000_000 + number)
            bus.send(f"{prefix}alerts", msgspec.json.encode(alert), key=key.encode(), partition=number % 2)
            ahead_s = begin_s + outage_s * number / annotations - time.monotonic()
            if ahead_s > 0.05:
                bus.flush()
                time.sleep(ahead_s)
            if killed < kills and number >= kill_at[killed]:
                sink = _kill_and_start(sink, environ, path, folder)
                killed += 1
                tell(f"{number} offered, sink killed {killed} times")
        bus.flush()
        tell("Grafana comes back")
        back_s = time.monotonic()
        with server:
            _wait(lambda: _total(path, "written") > 0, RECOVERY_S)
            sink = _kill_and_start(sink, environ, path, folder)  # in the middle of writing
            killed += 1
            _wait(lambda: _is_done(path, annotations), RECOVERY_S)
            recovery_s = time.monotonic() - back_s
            time.sleep(1)
    finally:
        sink.send_signal(signal.SIGTERM)
        sink.wait(30)
        bus.close()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent_s = used.ru_utime + used.ru_stime - cpu_s.ru_utime - cpu_s.ru_stime
    return _report(path, server, killed, recovery_s, spent_s)


def _report(path: Path, server: GrafanaDouble, kills: int, recovery_s: float, cpu_s: float) -> Report:
    spool = Spool(path)
    counts = spool.counts()
    waiting = spool.depth()
    spool.close()
    there = Counter(tag for a in server.annotations for tag in a["tags"] if tag.startswith("id:"))
    written = counts.get(("written", "alert"), 0)
    summaries = counts.get(("written", "summary"), 0)
    coalesced = counts.get(("coalesced", "alert"), 0)
    dropped = sum(n for (what, _), n in counts.items() if what == "dropped")
    offered = counts.get(("offered", "alert"), 0)
    return Report(
        offered=offered,
        written=written,
        summaries=summaries,
        coalesced=coalesced,
        dropped=dropped,
        doubled=sum(n - 1 for n in there.values()),
        unaccounted=waiting
        + abs(offered - written - coalesced - dropped)
        + abs(len(there) - written - summaries),
        kills=kills,
        recovery_s=recovery_s,
        sink_cpu_s=cpu_s,
    )


def _start(environ: dict[str, str], path: Path, folder: Path) -> subprocess.Popen[bytes]:
    words = ["annotate", "--spool", str(path), "--metrics-port", str(free_port())]
    with (folder / "sink.log").open("ab") as log:
        command = [sys.executable, "-c", "from streams.cli import main; main()", *words]
        return subprocess.Popen(command, env=environ, stdout=log, stderr=log)


def _kill_and_start(
    sink: subprocess.Popen[bytes], environ: dict[str, str], path: Path, folder: Path
) -> subprocess.Popen[bytes]:
    sink.kill()
    assert sink.wait(10) == -signal.SIGKILL, (folder / "sink.log").read_text()[-3000:]
    return _start(environ, path, folder)


def _spool(path: Path, ask: Callable[[Spool], Any]) -> Any:
    spool = Spool(path)
    try:
        return ask(spool)
    finally:
        spool.close()


def _total(path: Path, what: str) -> int:
    return sum(n for (name, _), n in _spool(path, Spool.counts).items() if name == what)


def _is_done(path: Path, annotations: int) -> bool:
    offered = _spool(path, Spool.counts).get(("offered", "alert"), 0)
    return bool(offered == annotations and _spool(path, Spool.depth) == 0)


def _wait(what: Callable[[], bool], timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline_s, "it took too long"
        time.sleep(0.1)
