"""Fenced state: every event is in the state once, however often the worker is killed.

* One pipeline per source partition. Its `fences` are the last offsets (of events and of feedback) in it.
* A snapshot is written every `snapshot_interval_s`, and when partitions are given up. It is durable once all
  its pieces, and every output made before it, are stored; only then may its fences be committed.
* On assignment the newest complete snapshot is restored, reading goes on behind its fences, and outputs that
  stand on the topics already are not written again.
* A worker that missed a generation of its group (it was stalled, and another one had its partitions) drops
  what it holds and restores. What it may write before it notices stands under its own old generation.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog
from faust.types import TP

from streams.bus.base import Message
from streams.errors import StateVersionError
from streams.recovery import log_bounds, read_to_end
from streams.snapshot import Assembler, Snapshot, SnapshotMeta, cut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sinks.policyfile import Policy
    from streams.faustbatch import Chunk
    from streams.outputs import OutputWriter
    from streams.pipeline import Outputs, Pipeline
    from streams.settings import Settings

MAX_CHUNK = 1000
"""Records per chunk: some milliseconds of work, so that commits and other agents are not held up."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class PartitionState:
    """The pipeline of one source partition and how far it is."""

    partition: int
    pipeline: Pipeline
    generation: int
    fences: dict[str, int] = field(default_factory=dict)
    """By source topic: offset of the last record in the pipeline."""
    durable: dict[str, int] = field(default_factory=dict)
    """The same for the newest durable snapshot."""
    number: int = 0
    whole: bool = True
    """False while a chunk is half applied, and for ever if that failed: such a state is never stored."""
    changed: bool = False
    unstored: list[asyncio.Future[Any]] = field(default_factory=list)
    """Outputs made since the last snapshot."""
    replay_ends: dict[str, int] = field(default_factory=dict)
    """By source topic: where it ended when the state was restored; outputs of records before that may stand
    on the topics already. Empty once all of them are in the pipeline."""
    oldest: dict[str, int] = field(default_factory=dict)
    """By source topic: the oldest offset that was there when the state was restored."""
    old_keys: list[bytes] = field(default_factory=list)
    """What earlier generations left on the state topic."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a chunk is applied, and while a snapshot is captured."""
    snapshot_lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class FencedState:
    """The state of all partitions that this worker has; also the `Fences` of its consumer.

    Parameters
    ----------
    settings : Settings
    build : callable
        Makes an empty pipeline.
    writer : OutputWriter
        Writes outputs and snapshots.
    """

    max_chunk = MAX_CHUNK

    def __init__(
        self, settings: Settings, build: Callable[[Settings], Pipeline], writer: OutputWriter
    ) -> None:
        self._settings = settings
        self._build = build
        self._writer = writer
        self.events_topic = settings.topic("events")
        self._generation = -1
        self._policy: Policy | None = None
        self.topics = frozenset({self.events_topic, settings.topic("feedback")})
        self.partitions: dict[int, PartitionState] = {}

    def set_policy(self, policy: Policy) -> None:
        """Put a policy in force, in all pipelines here and to come.

        Raises
        ------
        PolicyError
            If it cannot be in force here; the one before then stays.
        """
        self._build(self._settings).set_policy(policy)
        self._policy = policy
        for state in self.partitions.values():
            state.pipeline.set_policy(policy)
        _log.info("policy_in_force", version=policy.policy_version, mode=policy.mode)

    def committable(self, tp: TP) -> int | None:
        """Return the offset up to which everything is durable (the next one to read), or None."""
        state = self.partitions.get(tp.partition)
        fence = None if state is None else state.durable.get(tp.topic)
        return None if fence is None else fence + 1

    def positions(self, committed: Mapping[TP, int | None]) -> dict[TP, int]:
        """Return the next offset to read: behind the state, else as committed, else the oldest there is."""
        found: dict[TP, int] = {}
        for state in self.partitions.values():
            for topic in self.topics:
                tp = TP(topic, state.partition)
                fence, offset = state.fences.get(topic), committed.get(tp)
                found[tp] = fence + 1 if fence is not None else offset or state.oldest[topic]
        return found

    async def drained(self) -> None:
        """Make everything processed durable. Raises KafkaError."""
        await self.snapshot_all()

    async def apply(
        self, chunk: Chunk, step: Callable[[Pipeline, Sequence[Message]], Iterable[Outputs]]
    ) -> int:
        """Run a chunk's records through its partition's pipeline and write what comes out.

        Parameters
        ----------
        chunk : Chunk
        step : callable
            Takes the pipeline and the messages that are not in it yet; gives the outputs.

        Returns
        -------
        int
            How many records were new.
        """
        state = self.partitions.get(chunk.tp.partition)
        if state is None:
            return 0
        async with state.lock:
            fence = state.fences.get(chunk.tp.topic, -1)
            messages = [_message(record) for record in chunk.records if record.offset > fence]
            if not messages:
                return 0
            state.whole = False
            for outputs in step(state.pipeline, messages):
                state.unstored += await self._writer.publish(state.partition, outputs)
            state.fences[chunk.tp.topic] = chunk.last
            state.changed = state.whole = True
            self._settle(state)
            return len(messages)

    def _settle(self, state: PartitionState) -> None:
        if state.replay_ends and all(
            state.fences.get(topic, -1) + 1 >= end for topic, end in state.replay_ends.items()
        ):
            state.replay_ends = {}
            self._writer.settle(state.partition)

    async def snapshot_all(self) -> None:
        """Write a snapshot of every partition that changed, and wait until it is durable."""
        for state in list(self.partitions.values()):
            async with state.snapshot_lock:
                await self._snapshot(state)

    async def _snapshot(self, state: PartitionState) -> None:
        async with state.lock:
            if not state.changed or not state.whole:
                return
            state.number += 1
            fences, stored = dict(state.fences), state.unstored
            meta = SnapshotMeta(fences=fences, outputs=self._writer.positions(state.partition))
            blob = state.pipeline.dump()
            state.unstored, state.changed = [], False
        taken = Snapshot(
            partition=state.partition,
            generation=state.generation,
            number=state.number,
            meta=meta,
            blob=blob,
        )
        for key, value in cut(taken, fences.get(self.events_topic, -1)):
            stored.append(await self._writer.send("state", state.partition, key, value))
        await asyncio.gather(*stored)
        state.durable = fences
        if state.number > 1:
            await self._remove(state)

    async def _remove(self, state: PartitionState) -> None:
        """Take the snapshots of earlier generations off the topic: two newer ones are durable."""
        keys, state.old_keys = state.old_keys, []
        await asyncio.gather(*[await self._writer.send("state", state.partition, key, None) for key in keys])

    async def assign(self, partitions: Iterable[int], generation: int) -> None:
        """Take over the partitions of a new generation: restore those that are not here already.

        Raises
        ------
        StateVersionError
            If the state was written by another version, or belongs to another events topic.
        KafkaError
            If it cannot be read.
        """
        mine = set(partitions)
        if generation != self._generation + 1:
            self.partitions.clear()
        self._generation = generation
        for partition in set(self.partitions) - mine:
            del self.partitions[partition]
            self._writer.forget(partition)
        new = sorted(mine - set(self.partitions))
        if new:
            restored = await self._restore(new, generation)
            self.partitions.update(restored)
        _log.info("worker_ready", partitions=sorted(mine), restored=new, generation=generation)

    async def _restore(self, partitions: list[int], generation: int) -> dict[int, PartitionState]:
        topic = self._settings.topic("state")
        found = {partition: Assembler(partition) for partition in partitions}
        async for record in read_to_end(self._settings.kafka, {(topic, p): 0 for p in partitions}):
            found[record.partition].add(record.key or b"", record.value)
        bounds = await log_bounds(self._settings.kafka, [(t, p) for t in self.topics for p in partitions])
        states: dict[int, PartitionState] = {}
        since: dict[int, dict[str, int]] = {}
        for partition, assembler in found.items():
            snapshot = next(iter(assembler.snapshots()), None)
            for fault in assembler.faults:
                _log.warning("snapshot_skipped", partition=partition, reason=fault)
            state = states[partition] = self._state(assembler, snapshot, generation)
            state.replay_ends = {topic: bounds[topic, partition][1] for topic in self.topics}
            state.oldest = {topic: bounds[topic, partition][0] for topic in self.topics}
            since[partition] = {} if snapshot is None else snapshot.meta.outputs
            self._check_fences(state, bounds)
        await self._writer.recover(since)
        for state in states.values():
            self._settle(state)
        return states

    def _state(self, assembler: Assembler, snapshot: Snapshot | None, generation: int) -> PartitionState:
        pipeline = self._build(self._settings)
        if self._policy is not None:
            pipeline.set_policy(self._policy)
        fences: dict[str, int] = {}
        if snapshot is not None:
            pipeline.restore(snapshot.blob)
            fences = snapshot.meta.fences
            _log.info(
                "state_restored", partition=assembler.partition, fences=fences, bytes=len(snapshot.blob)
            )
        return PartitionState(
            partition=assembler.partition,
            pipeline=pipeline,
            generation=max(generation, assembler.highest_generation + 1),
            fences=dict(fences),
            durable=dict(fences),
            old_keys=list(assembler.keys),
        )

    def _check_fences(self, state: PartitionState, bounds: Mapping[tuple[str, int], tuple[int, int]]) -> None:
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
                    f"Delete and create the topic {self._settings.topic('state')} too",
                )


def _message(record: Any) -> Message:
    return Message(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        key=record.key,
        value=record.value,
        headers=tuple(record.headers),
        time_ms=record.timestamp,
    )
