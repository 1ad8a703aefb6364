"""From the topics to Grafana's annotations, in a process that detection never waits for.

Two threads: one reads the topics into the spool, the other writes the spool to Grafana. How far the topics
are read stands in the spool, so there is no consumer group and nothing is read twice after a crash.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import msgspec
import structlog

from detectors.alert import Alert
from sinks.grafana.annotation import of_alert, of_command, of_policy
from sinks.grafana.spool import Spool, spool_errors
from sinks.grafana.writer import AnnotationWriter, CountReporter
from sinks.records import Command
from streams.bus.base import BusError
from streams.clock import SystemClock

if TYPE_CHECKING:
    from pathlib import Path

    from sinks.grafana.annotation import Annotation
    from sinks.grafana.client import GrafanaClient
    from streams.bus.base import Bus, Message
    from streams.companion import Companion
    from streams.settings import Settings

RETRY_S = 5.0
PROBE_S = 15.0
_TOPICS = ("alerts", "commands", "policy")

_log = structlog.get_logger(__name__)


def read_annotation(message: Message, topic: str) -> Annotation | None:
    """Return the mark of a record of `topic` (its name without prefix); None if it deserves none."""
    if message.value is None:
        return None
    try:
        if topic == "alerts":
            return of_alert(msgspec.json.decode(message.value, type=Alert))
        if topic == "commands":
            return of_command(msgspec.json.decode(message.value, type=Command))
    except msgspec.MsgspecError as error:
        place = f"{message.topic}/{message.partition}/{message.offset}"
        _log.warning(
            "not_annotated", place=place, reason=str(error).partition(" - at ")[2] or "not that record"
        )
        return None
    return of_policy(f"{message.topic}/{message.partition}/{message.offset}", message.offset, message.time_ms)


def follow_topics(bus: Bus, settings: Settings, spool: Spool, companion: Companion) -> None:
    """Read what comes into the spool, until the companion is stopped. Raises BusError, sqlite3.Error.

    The first time ever, reading begins at the topics' ends: history is not annotated.
    """
    clock = SystemClock()
    names = {settings.topic(name): name for name in _TOPICS}
    start = {
        (topic, p): end for topic in names for p, end in bus.end_offsets(topic).items()
    } | spool.positions()
    spool.offer([], start, clock.now_ms())
    for messages in bus.read(list(names), start=start, follow=True):
        if companion.stopped.is_set():
            return
        found = [read_annotation(message, names[message.topic]) for message in messages]
        positions = {(m.topic, m.partition): m.offset + 1 for m in messages}
        if positions:
            spool.offer([one for one in found if one is not None], positions, clock.now_ms())


def write_spool(client: GrafanaClient, path: Path, companion: Companion) -> None:
    """Write what waits to Grafana, whatever it does, until the companion is stopped. Raises SpoolError."""
    clock = SystemClock()
    with closing(Spool(path)) as spool, spool_errors(path):
        writer = AnnotationWriter(
            client, spool, companion.instruments, now_ms=clock.now_ms, monotonic_s=clock.monotonic_s
        )
        reporter = CountReporter(spool, companion.instruments)
        probe_at_s = 0.0
        while not companion.stopped.is_set():
            companion.health.beat()
            if clock.monotonic_s() >= probe_at_s:
                writer.probe()
                probe_at_s = clock.monotonic_s() + PROBE_S
            wait_s = writer.step()
            reporter.report(clock.now_ms())
            companion.stopped.wait(min(wait_s, PROBE_S))


def run(bus: Bus, settings: Settings, client: GrafanaClient, path: Path, companion: Companion) -> None:
    """Run both threads until the companion is stopped; a broker that is away is tried again for ever.

    Raises
    ------
    SpoolError
        If the disk refuses either thread; both have ended then.
    """
    # The file is made before the writer opens it too: two threads that make it at once find it locked.
    with closing(Spool(path)) as spool, ThreadPoolExecutor(1, "writer") as pool, spool_errors(path):
        writing = pool.submit(write_spool, client, path, companion)
        writing.add_done_callback(lambda _: companion.stopped.set())
        try:
            while not companion.stopped.is_set():
                try:
                    follow_topics(bus, settings, spool, companion)
                except BusError as error:
                    _log.warning("broker_away", error=str(error))
                    companion.stopped.wait(RETRY_S)
        finally:
            companion.stopped.set()
        writing.result()
