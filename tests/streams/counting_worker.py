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

import msgspec

from detectors.alert import Alert, alert_id
from sinks.records import Command, Feedback
from streams.app import WorkerApp, build_app, run_worker
from streams.codec import Rejection
from streams.logs import setup_logs
from streams.pipeline import Outputs
from streams.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streams.bus.base import Message

EVERY = 10
PAUSE_S = float(os.environ.get("PAUSE_S", "0"))
SPLIT = 6
"""Snapshots are padded past this many pieces, so that kills fall between the pieces."""


class CountingPipeline:
    """Counts the events of each key."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.partition = -1

    def process(self, messages: Sequence[Message]) -> Outputs:
        outputs = Outputs(alerts=[], decisions=[], commands=[], rejections=[], events=0)
        for message in messages:
            self.partition = message.partition
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

    def set_policy(self, policy: object) -> None:
        """Take no notice: counting follows no policy."""

    def dump(self) -> bytes:
        counts = msgspec.json.encode(self.counts)
        if self.partition >= 0:
            path = Path(os.environ["COUNTS_DIR"]) / f"{self.partition}-{os.getpid()}.json"
            path.with_suffix(".new").write_bytes(counts)
            path.with_suffix(".new").rename(path)
        return counts + b" " * (SPLIT * 512 * 1024)

    def restore(self, blob: bytes) -> None:
        self.counts = Counter(msgspec.json.decode(blob, type=dict[str, int]))


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
    return build_app(settings, build_counting)  # type: ignore[arg-type] # it counts instead


if __name__ == "__main__":
    run_worker(make_app())
