"""What a worker holds of one source partition. Who reads and writes it: `streams.state`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any

import structlog

from streams.errors import StateVersionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from detectors.reference import ModelReference
    from sinks.policytopic import PolicyInForce
    from streams.bus.base import Message
    from streams.faustbatch import Chunk
    from streams.pipeline import Outputs, Pipeline
    from streams.snapshot import Shelf
    from streams.statestore import Found

    Step = Callable[[Pipeline, Sequence[Message]], Iterable[Outputs]]
    """Takes a pipeline and messages that are not in it yet; gives the outputs."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class PartitionState:
    """The pipeline of one source partition and how far it is."""

    partition: int
    pipeline: Pipeline
    policy: PolicyInForce
    """In force in the pipeline."""
    shelf: Shelf
    """Where this generation's snapshots stand."""
    next_policy: PolicyInForce | None = None
    """Takes its place with the next snapshot."""
    waiting: list[tuple[Chunk, Step]] = field(default_factory=list)
    """Chunks that are applied with the next snapshot."""
    fences: dict[str, int] = field(default_factory=dict)
    """By source topic: offset of the last record in the pipeline, or of the one before its first."""
    durable: dict[str, int] = field(default_factory=dict)
    """The same for the newest durable snapshot."""
    whole: bool = True
    """False while a chunk is half applied, and for ever if that failed: such a state is never stored."""
    changed: bool = False
    undurable_since_s: list[float] = field(default_factory=list)
    """Monotonic time of the oldest change in the snapshot being stored, if any, and in the next."""
    unstored: list[asyncio.Future[Any]] = field(default_factory=list)
    """Outputs made since the last snapshot."""
    replay_end: int | None = None
    """Where the events ended when the state was restored; outputs of events before that may stand on the
    topics already. None once all of those have been made again."""
    shared: dict[str, ModelReference] = field(default_factory=dict)
    """By model: what was learned here and written for others last."""
    found: Found | None = None
    """What earlier generations left on the topics, until it is removed."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a chunk is applied, while a snapshot is captured, and until it is durable if it turns."""
    snapshot_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def note_change(self) -> None:
        """Take the state for changed, and remember since when."""
        if not self.changed:
            self.undurable_since_s.append(monotonic())
        self.changed = True


def check_fences(
    state: PartitionState, bounds: Mapping[tuple[str, int], tuple[int, int]], state_topic: str
) -> None:
    """Hold a restored state against where its source topics begin and end now.

    Raises
    ------
    StateVersionError
        If it contains events that a topic does not have yet: that is another topic.
    """
    for topic, fence in state.fences.items():
        oldest, end = bounds[topic, state.partition]
        if fence + 1 < oldest:
            _log.warning(
                "events_expired_unread", topic=topic, partition=state.partition, count=oldest - fence - 1
            )
        if fence >= end:
            raise StateVersionError(
                f"the state of partition {state.partition}",
                f"it contains offset {fence} of {topic}, which ends before that: the topic was made anew",
                f"Delete and create the topic {state_topic} too",
            )
