"""A real worker around a pipeline that only counts: what it holds can be compared with the truth.

Started as a program by test_worker.py, with the settings of the environment. Every tenth event of a key makes
an alert and a command, and a message that is not a number is refused. Each dump is also written to the folder
COUNTS_DIR, so that the test sees what the worker holds; a file per process, for a stalled worker still writes
what it held when another has gone on.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

import msgspec

from detectors.alert import Alert, alert_id
from sinks.records import Command, Feedback
from streams import watchdog
from streams.app import WorkerApp, build_app, run_worker
from streams.codec import Rejection
from streams.logs import setup_logs
from streams.pipeline import Outputs
from streams.settings import Settings, load_settings
from streams.snapshot import PIECE_BYTES
from streams.state import FencedState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from detectors.reference import ModelReference
    from streams.bus.base import Message

EVERY = 10
PAUSE_S = float(os.environ.get("PAUSE_S", "0"))
CHUNK_EVENTS = 500
"""Small, so that a test's events make dozens of chunks and a fault falls between two of them."""
BUCKETS = 4
"""Parts that the state is dumped in."""
PADDING = b" " * int(os.environ.get("PADDING_BYTES", 3 * PIECE_BYTES // 2))
"""Makes two pieces of every part, so that kills fall between the pieces."""


class CountingPipeline:
    """Counts the events of each key."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.stored: dict[str, bytes] = {}
        self.partition = -1

    def learned(self) -> list[ModelReference]:
        return []

    def process(self, messages: Sequence[Message]) -> Outputs:
        outputs = Outputs(alerts=[], decisions=[], commands=[], rejections=[], events=0)
        for message in messages:
            key = (message.key or b"").decode()
            if not (message.value or b"").isdigit():
                outputs.rejections.append(
                    Rejection(reason="not_json", detail="not a number", message=message)
                )
                continue
            outputs.events += 1
            self.counts[key] += 1
            if self.counts[key] % EVERY == 0:
                alert = make_alert(message, key, self.counts[key])
                outputs.alerts.append(alert)
                outputs.commands.append(make_command(alert))
        time.sleep(PAUSE_S)
        return outputs

    def feedback(self, record: Feedback) -> Outputs:
        self.counts[f"feedback {record.author}"] += 1
        return Outputs(alerts=[], decisions=[], commands=[], rejections=[], events=0)

    def begin(self, policy: object) -> None:
        """Take no notice: counting follows no policy."""

    def set_policy(self, _policy: object) -> Outputs:
        return Outputs()

    def set_place(self, partition: int, _partitions: int) -> None:
        """A restored pipeline may see feedback only, which does not say whose counts these are."""
        self.partition = partition

    is_breaker_open = False

    part_names = frozenset(f"bucket/{number}" for number in range(BUCKETS))

    def dump_parts(self, *, changed_only: bool) -> dict[str, bytes]:
        if self.partition >= 0:
            path = Path(os.environ["COUNTS_DIR"]) / f"{self.partition}-{os.getpid()}.json"
            path.with_suffix(".new").write_bytes(msgspec.json.encode(self.counts))
            path.with_suffix(".new").rename(path)
        buckets: list[dict[str, int]] = [{} for _ in range(BUCKETS)]
        for key, count in self.counts.items():
            buckets[crc32(key.encode()) % BUCKETS][key] = count
        fresh = {f"bucket/{number}": msgspec.json.encode(bucket) for number, bucket in enumerate(buckets)}
        stored, self.stored = self.stored, fresh
        return {
            name: part + PADDING
            for name, part in fresh.items()
            if not changed_only or stored.get(name) != part
        }

    def restore_parts(self, parts: dict[str, bytes]) -> None:
        self.counts = read_counts(parts)


def read_counts(parts: Mapping[str, bytes]) -> Counter[str]:
    """What a dump holds."""
    assert set(parts) == CountingPipeline.part_names
    return sum(
        (Counter(msgspec.json.decode(part, type=dict[str, int])) for part in parts.values()), Counter()
    )


def make_alert(message: Message, key: str, count: int) -> Alert:
    return Alert(
        alert_id=alert_id(message.topic, message.partition, message.offset, "counted"),
        time_ms=message.time_ms,
        key=key,
        model="m",
        level="warning",
        key_p_value=0.001,
        e_value_log10=3.0,
        extrapolated=False,
        families=("rate",),
        evidence=(),
        features=(),
        techniques=(),
        query_count=count,
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        first_offset=0,
        code_version="test",
        reference_version="test",
        would_not_have_fired="",
        sentence=f"{key} sent {count} events",
    )


def make_command(alert: Alert) -> Command:
    return Command(
        command_id=alert.alert_id,
        action="watch",
        key=alert.key,
        model=alert.model,
        issued_ms=alert.time_ms,
        expires_ms=alert.time_ms + 1000,
        rule="count",
        policy_version="test",
        alert_id=alert.alert_id,
        reason=alert.sentence,
    )


def build_counting(_settings: Settings) -> CountingPipeline:
    return CountingPipeline()


def make_app() -> WorkerApp:
    settings = load_settings(None, os.environ)
    setup_logs(settings.log)
    FencedState.max_chunk_events = CHUNK_EVENTS
    watchdog.STOP_TICKS = int(os.environ.get("STOP_TICKS", watchdog.STOP_TICKS))
    return build_app(settings, build_counting)  # type: ignore[arg-type] # it counts instead


if __name__ == "__main__":
    run_worker(make_app())
