"""What a worker takes, with all detection or with none. Usage: ours.py detect|decode BROKERS PREFIX EVENTS"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

sys.path.insert(0, str(Path(__file__).parent))
from meter import Meter

import streams.samples
from streams.app import build_app, run_worker
from streams.codec import decode_events
from streams.logs import setup_logs
from streams.pipeline import Outputs, build_pipeline
from streams.recordblock import topic_of
from streams.settings import LogSettings, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streams.bus.base import Message
    from streams.pipeline import Pipeline


def count_events(pipeline: Any, meter: Meter) -> Any:
    """Let a pipeline tell the meter how many events it has processed."""
    process: Callable[..., Outputs] = pipeline.process

    def counted(messages: Sequence[Message], now_ms: int | None = None) -> Outputs:
        outputs = process(messages, now_ms)
        if topic_of(messages) != "warm-up":
            meter.end(outputs.events)
        return outputs

    pipeline.process = counted
    return pipeline


def decode_only(pipeline: Pipeline) -> Any:
    """Leave out detection and policy: messages to columns, and no further."""

    def process(messages: Sequence[Message], _now_ms: int | None = None) -> Outputs:
        batch, rejections = decode_events(messages, topic_of(messages))
        return Outputs(events=0 if batch is None else len(batch), rejections=rejections)

    pipeline.process = process  # type: ignore[method-assign, assignment]
    return pipeline


def main() -> None:
    """Run a worker on the topics with a prefix until the meter has seen enough."""
    what, brokers, prefix, events = sys.argv[1:]
    settings = Settings(
        kafka=brokers,
        topic_prefix=prefix,
        consumer_group=uuid4().hex,
        # State that one case stores would be where the next begins, behind all events; state_restart.py has
        # what storing costs.
        snapshot_interval_s=3600,
        references_path=Path(str(streams.samples.__file__)).parent,
        log=LogSettings(level="error"),
    )
    setup_logs(settings.log)
    meter = Meter(int(events))

    def build(settings: Settings) -> Any:
        pipeline = build_pipeline(settings)
        return count_events(pipeline if what == "detect" else decode_only(pipeline), meter)

    run_worker(build_app(settings, build))


if __name__ == "__main__":
    main()
