"""Fenced state: every event is in the state once, however often the worker is killed.

* One pipeline per source partition. Its `fences` are the last offsets (of events and of feedback) in it.
* A snapshot is written every `snapshot_interval_s`, and when partitions are given up. It is durable once all
  its pieces, and every output made before it, are stored; only then may its fences be committed.
* On assignment the newest complete snapshot is restored, reading goes on behind its fences, and outputs that
  stand on the topics already are not written again.
* A person's feedback and a new policy take effect only together with a snapshot: events wait until it is
  durable, and what follows from the feedback is written after that. So every event is replayed under the
  same feedback and policy as the first time, whichever topic is read faster then: a replay makes the same
  outputs, with the same sequence numbers, and a `restore` that was sent stays the last word.
* A worker that missed a generation of its group (it was stalled, and another one had its partitions) drops
  what it holds and restores. What it may write before it notices stands under its own old generation.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog
from faust.types import TP

from sinks.policyfile import load_policy
from streams.bus.base import Message
from streams.errors import PolicyError, StateVersionError
from streams.metrics import Lag
from streams.outputs import list_outputs
from streams.recovery import log_bounds, read_to_end
from streams.snapshot import Assembler, Snapshot, SnapshotMeta, cut, next_generation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from sinks.policyfile import Policy
    from streams.faustbatch import Chunk
    from streams.metrics import Metrics
    from streams.outputs import Output, OutputWriter
    from streams.pipeline import Outputs, Pipeline
    from streams.settings import Settings

    Step = Callable[[Pipeline, Sequence[Message]], Iterable[Outputs]]
    """Takes a pipeline and messages that are not in it yet; gives the outputs."""

MAX_CHUNK = 1000
"""Records per chunk: some milliseconds of work, so that commits and other agents are not held up."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class PartitionState:
    """The pipeline of one source partition and how far it is."""

    partition: int
    pipeline: Pipeline
    generation: int
    policy: Policy
    """In force in the pipeline."""
    next_policy: Policy | None = None
    """Takes its place with the next snapshot."""
    waiting: list[tuple[Chunk, Step]] = field(default_factory=list)
    """Chunks that are applied with the next snapshot."""
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
    replay_end: int | None = None
    """Where the events ended when the state was restored; outputs of events before that may stand on the
    topics already. None once all of those have been made again."""
    oldest: dict[str, int] = field(default_factory=dict)
    """By source topic: the oldest offset that was there when the state was restored."""
    old_keys: list[bytes] = field(default_factory=list)
    """What earlier generations left on the state topic."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a chunk is applied, while a snapshot is captured, and until it is durable if it turns."""
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
    metrics : Metrics
        Told what is made.

    Raises
    ------
    PolicyError, FileFormatError
        If the policy file of the settings cannot be used.
    """

    max_chunk = MAX_CHUNK

    def __init__(
        self,
        settings: Settings,
        build: Callable[[Settings], Pipeline],
        writer: OutputWriter,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._build = build
        self._writer = writer
        self.events_topic = settings.topic("events")
        self._generation = -1
        self._policy = load_policy(settings.policy_file, settings.policy_mode)
        self.topics = frozenset({self.events_topic, settings.topic("feedback")})
        self.partitions: dict[int, PartitionState] = {}

    def set_policy(self, policy: Policy) -> None:
        """Put a policy in force with the next snapshots, in all pipelines here and to come.

        Raises
        ------
        PolicyError
            If it cannot be in force here; the one before then stays.
        """
        self._build(self._settings).set_policy(policy)
        self._policy = policy
        for state in self.partitions.values():
            state.next_policy = policy
        _log.info("policy_accepted", version=policy.policy_version, mode=policy.mode)

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

    async def apply(self, chunk: Chunk, step: Step) -> None:
        """Run a chunk's records through its partition's pipeline and write what comes out."""
        state = self.partitions.get(chunk.tp.partition)
        if state is None:
            return
        async with state.lock:
            for outputs in self._advance(state, chunk, step):
                state.unstored += await self._writer.publish(state.partition, outputs)
            self._settle(state)

    def hold(self, chunk: Chunk, step: Step) -> None:
        """Apply a chunk together with the next snapshot of its partition."""
        state = self.partitions.get(chunk.tp.partition)
        if state is not None:
            state.waiting.append((chunk, step))

    def _advance(self, state: PartitionState, chunk: Chunk, step: Step) -> Iterator[list[Output]]:
        """Run what is new of a chunk through the pipeline; the state is whole again after the last output."""
        fence = state.fences.get(chunk.tp.topic, -1)
        messages = [_message(record) for record in chunk.records if record.offset > fence]
        if not messages:
            return
        state.whole = False
        for outputs in step(state.pipeline, messages):
            self._metrics.count(outputs)
            yield list(list_outputs(outputs))
        state.fences[chunk.tp.topic] = chunk.last
        state.changed = state.whole = True

    def _settle(self, state: PartitionState) -> None:
        if state.replay_end is not None and (
            state.fences.get(self.events_topic, -1) + 1 >= state.replay_end
            or not self._writer.is_replaying(state.partition)
        ):
            state.replay_end = None
            self._writer.settle(state.partition)

    def _turn(self, state: PartitionState) -> list[Output] | None:
        """Apply what waits for a snapshot and return the outputs; None if nothing waits, or in a replay."""
        if state.replay_end is not None or not (state.waiting or state.next_policy):
            return None
        if state.next_policy is not None:
            state.pipeline.set_policy(state.next_policy)
            state.policy, state.next_policy, state.changed = state.next_policy, None, True
            _log.info(
                "policy_in_force",
                partition=state.partition,
                version=state.policy.policy_version,
                mode=state.policy.mode,
            )
        waiting, state.waiting = state.waiting, []
        return [
            output
            for chunk, step in waiting
            for outputs in self._advance(state, chunk, step)
            for output in outputs
        ]

    async def snapshot_all(self) -> None:
        """Write a snapshot of every partition that changed, and wait until it is durable."""
        for state in list(self.partitions.values()):
            async with state.snapshot_lock:
                await self._snapshot(state)

    async def _snapshot(self, state: PartitionState) -> None:
        async with state.lock:
            held = self._turn(state) if state.whole else None
            if not state.changed or not state.whole:
                return
            stored = state.unstored
            taken = self._capture(state, held or [])
            if held is not None:  # no event may see the turn before it is durable
                await self._store(state, taken, stored)
                state.unstored += await self._writer.publish(state.partition, held)
                return
        await self._store(state, taken, stored)

    def _capture(self, state: PartitionState, held: Iterable[Output]) -> Snapshot:
        state.number += 1
        meta = SnapshotMeta(
            fences=dict(state.fences),
            outputs=self._writer.positions(state.partition),
            policy=state.policy,
            held=tuple(held),
        )
        blob = state.pipeline.dump()
        state.unstored, state.changed = [], False
        return Snapshot(
            partition=state.partition,
            generation=state.generation,
            number=state.number,
            meta=meta,
            blob=blob,
        )

    async def _store(self, state: PartitionState, taken: Snapshot, stored: list[asyncio.Future[Any]]) -> None:
        """Write a snapshot; it is durable with all outputs before it, which `stored` tells."""
        with self._metrics.time_snapshot():
            for key, value in cut(taken, taken.meta.fences.get(self.events_topic, -1)):
                stored.append(await self._writer.send("state", state.partition, key, value))
            await asyncio.gather(*stored)
        state.durable = taken.meta.fences
        if taken.number > 1:
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
        held: dict[int, tuple[Output, ...]] = {}
        for partition, assembler in found.items():
            snapshot = next(iter(assembler.snapshots()), None)
            for fault in assembler.faults:
                _log.warning("snapshot_skipped", partition=partition, reason=fault)
            state = states[partition] = self._state(assembler, snapshot, generation)
            state.replay_end = bounds[self.events_topic, partition][1]
            state.oldest = {topic: bounds[topic, partition][0] for topic in self.topics}
            since[partition] = {} if snapshot is None else snapshot.meta.outputs
            held[partition] = () if snapshot is None else snapshot.meta.held
            self._check_fences(state, bounds)
        await self._writer.recover(since)
        for state in states.values():
            state.unstored += await self._writer.publish(state.partition, held[state.partition])
            self._settle(state)
        return states

    def _state(self, assembler: Assembler, snapshot: Snapshot | None, generation: int) -> PartitionState:
        pipeline = self._build(self._settings)
        policy = self._set_policy(pipeline, None if snapshot is None else snapshot.meta.policy)
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
            generation=next_generation(generation, assembler.highest_generation),
            policy=policy,
            next_policy=None if policy == self._policy else self._policy,
            fences=dict(fences),
            durable=dict(fences),
            old_keys=list(assembler.keys),
        )

    def _set_policy(self, pipeline: Pipeline, wanted: Policy | None) -> Policy:
        """Go on under the policy of the snapshot, if that is possible still; return the one in force."""
        if wanted is not None and wanted != self._policy:
            try:
                pipeline.set_policy(wanted)
            except PolicyError as error:
                _log.warning("replay_under_another_policy", wanted=wanted.policy_version, reason=str(error))
            else:
                return wanted
        pipeline.set_policy(self._policy)
        return self._policy

    def lags(self, end: Callable[[TP], int | None]) -> Iterator[Lag]:
        """Yield how far each partition's state is behind the ends that are known."""
        for state in self.partitions.values():
            for topic in sorted(self.topics):
                known = end(TP(topic, state.partition))
                if known is not None:
                    read = state.fences.get(topic, state.oldest[topic] - 1) + 1
                    name = topic.removeprefix(self._settings.topic_prefix)
                    yield Lag(name, state.partition, max(known - read, 0))

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
