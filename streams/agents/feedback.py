"""The feedback agent: people's verdicts and decisions on keys, into the same pipeline as the keys' events.

Feedback is partitioned by key like events, so the worker that has a key's events gets its feedback; and it is
behind the same fences, so that a verdict is in the state once, too. It takes effect with the next snapshot
(`streams.state` says why), so at most `snapshot_interval_s` later, or once a replay is over. Serving layers'
acknowledgements come the same way, for the audit chain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from sinks.records import Acknowledgement, Feedback, OperatorAction
from streams.codec import Rejection
from streams.errors import SigningError
from streams.pipeline import Outputs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from streams.app import WorkerApp
    from streams.bus.base import Message
    from streams.pipeline import Pipeline


class _Kind(msgspec.Struct):
    """Tells an operator action from feedback."""

    action_id: str | None = None


def add_feedback_agent(app: WorkerApp) -> None:
    """Declare the agents that read the feedback and acks topics."""
    words, acknowledgements = app.batch_topic("feedback"), app.batch_topic("acks")

    @app.agent(words, name="feedback", concurrency=1)
    async def feedback(stream: Any) -> None:
        async for event in stream.events():
            app.hold(event.value, take_words)

    @app.agent(acknowledgements, name="acks", concurrency=1)
    async def acks(stream: Any) -> None:
        async for event in stream.events():
            app.hold(event.value, take_acknowledgements)


def take_words(pipeline: Pipeline, messages: Sequence[Message]) -> Iterator[Outputs]:
    """Apply feedback and operator actions, each in its turn; what cannot be obeyed is refused."""
    for message in messages:
        value = message.value or b""
        try:
            if msgspec.json.decode(value, type=_Kind).action_id is None:
                yield pipeline.feedback(msgspec.json.decode(value, type=Feedback))
            else:
                yield pipeline.operate(msgspec.json.decode(value, type=OperatorAction))
        except SigningError as error:
            yield Outputs(rejections=[Rejection(reason="signature", detail=error.why, message=message)])
        except (msgspec.DecodeError, UnicodeError) as error:
            yield Outputs(rejections=[_reject(message, error, "feedback or operator-action")])


def take_acknowledgements(pipeline: Pipeline, messages: Sequence[Message]) -> Iterator[Outputs]:
    """Put acknowledgements on record."""
    for message in messages:
        try:
            record = msgspec.json.decode(message.value or b"", type=Acknowledgement)
        except (msgspec.DecodeError, UnicodeError) as error:
            yield Outputs(rejections=[_reject(message, error, "acknowledgement")])
        else:
            yield pipeline.acknowledge(record)


def _reject(message: Message, error: Exception, schema: str) -> Rejection:
    """Say where the record is wrong, without what stands there."""
    place = str(error).partition(" - at ")[2]
    invalid = isinstance(error, msgspec.ValidationError)
    return Rejection(
        reason="wrong_value" if invalid else "not_json",
        detail=f"no {schema} record (deploy/schemas){': at ' + place if place else ''}",
        message=message,
    )
