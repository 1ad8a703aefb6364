"""The events agent: chunks of serving events through the pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from streams.app import WorkerApp
    from streams.bus.base import Message
    from streams.pipeline import Outputs, Pipeline


def add_events_agent(app: WorkerApp) -> None:
    """Declare the agent that reads the events topic."""
    topic = app.batch_topic("events")

    @app.agent(topic, name="events", concurrency=1)
    async def events(stream: Any) -> None:
        async for event in stream.events():
            await app.apply(event.value, _process)


def _process(pipeline: Pipeline, messages: Sequence[Message]) -> Iterator[Outputs]:
    yield pipeline.process(messages)
