"""The feedback agent: people's verdicts on keys, into the same pipeline as the keys' events.

Feedback is partitioned by key like events, so the worker that has a key's events gets its feedback; and it is
behind the same fences, so that a verdict is in the state once, too. It takes effect with the next snapshot
(`streams.state` says why), so at most `snapshot_interval_s` later, or once a replay is over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from sinks.records import Feedback
from streams.codec import Rejection
from streams.pipeline import Outputs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from streams.app import WorkerApp
    from streams.bus.base import Message
    from streams.pipeline import Pipeline


def add_feedback_agent(app: WorkerApp) -> None:
    """Declare the agent that reads the feedback topic."""
    topic = app.batch_topic("feedback")

    @app.agent(topic, name="feedback", concurrency=1)
    async def feedback(stream: Any) -> None:
        async for event in stream.events():
            app.hold(event.value, _apply)


def _apply(pipeline: Pipeline, messages: Sequence[Message]) -> Iterator[Outputs]:
    for message in messages:
        try:
            record = msgspec.json.decode(message.value or b"", type=Feedback)
        except (msgspec.DecodeError, UnicodeError) as error:
            yield Outputs(
                alerts=[], decisions=[], commands=[], rejections=[_reject(message, error)], events=0
            )
        else:
            yield pipeline.feedback(record)


def _reject(message: Message, error: Exception) -> Rejection:
    """Say where the record is wrong, without what stands there."""
    place = str(error).partition(" - at ")[2]
    invalid = isinstance(error, msgspec.ValidationError)
    return Rejection(
        reason="wrong_value" if invalid else "not_json",
        detail=f"not a feedback record (deploy/schemas/feedback){': at ' + place if place else ''}",
        message=message,
    )
