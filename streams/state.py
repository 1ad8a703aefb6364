"""Fenced state: every event is in the state once, however often the worker is killed.

* One pipeline per source partition. Its `fences` are the last offsets (of events and of feedback) in it.
* A snapshot is written every `snapshot_interval_s`, and when partitions are given up: the parts of the state
  that changed since the one before (`streams.snapshot` has the protocol). It is durable once all its parts,
  and every output made before it, are stored; only then may its fences be committed. Other partitions go on
  while it is captured, and this one too while it is stored.
* Where a state begins is part of it, as a fence: the group's committed offset counts only where there is no
  snapshot at all. Another worker, whose snapshots are of no consequence any more, may have moved it.
* On assignment the newest whole snapshot is restored, reading goes on behind its fences, and outputs that
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
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

import structlog
from faust.types import TP

from sinks.metrics import catalogue
from sinks.policyfile import load_policy
from sinks.policytopic import PolicyInForce
from streams.errors import PolicyError
from streams.learned import share_learned
from streams.metrics import Lag
from streams.outputs import list_outputs
from streams.partitionstate import PartitionState, check_fences
from streams.recordblock import first_time_ms
from streams.recovery import committed_offsets, count_partitions, log_bounds, run_few
from streams.snapshot import Shelf, SnapshotMeta, next_generation
from streams.statestore import take_dump
from streams.tracing import make_tracer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from streams.faustbatch import Chunk
    from streams.metrics import Metrics
    from streams.outputs import Output, OutputWriter
    from streams.partitionstate import Step
    from streams.pipeline import Pipeline
    from streams.settings import Settings
    from streams.statestore import Dump, Found, StateStore

MAX_CHUNK_EVENTS = 8192
"""Some milliseconds of work, so that heartbeats, commits and other agents are not held up. With half as many
an event costs a twentieth more, with twice as many no less (`tests/bench/chunk_cost.py`)."""
RESTORED_AT_ONCE = 2
"""Partitions: more would hold more of what was read in memory, and no core is left to unpack it."""

_log = structlog.get_logger(__name__)


class FencedState:
    """The state of all partitions that this worker has; also the `Fences` of its consumer.

    Parameters
    ----------
    settings : Settings
    build : callable
        Makes an empty pipeline.
    writer : OutputWriter
        Writes outputs.
    store : StateStore
        Writes and reads snapshots.
    metrics : Metrics
        Told what is made.

    Raises
    ------
    PolicyError, FileFormatError
        If the policy file of the settings cannot be used.
    """

    max_chunk_events = MAX_CHUNK_EVENTS

    def __init__(
        self,
        settings: Settings,
        build: Callable[[Settings], Pipeline],
        writer: OutputWriter,
        store: StateStore,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._tracer = make_tracer(settings.tracing)
        self._build = build
        self._writer = writer
        self._store = store
        self.events_topic = settings.topic("events")
        self._generation = -1
        self._partition_count = 1
        self._policy = PolicyInForce(policy=load_policy(settings.policy_file, settings.policy_mode))
        self.topics = frozenset({self.events_topic, settings.topic("feedback"), settings.topic("acks")})
        self.partitions: dict[int, PartitionState] = {}

    @property
    def policy(self) -> PolicyInForce:
        """The newest policy, in force or soon."""
        return self._policy

    def set_policy(self, policy: PolicyInForce) -> None:
        """Put a policy in force with the next snapshots, in all pipelines here and to come.

        Raises
        ------
        PolicyError
            If it cannot be in force here; the one before then stays.
        """
        self._build(self._settings).begin(policy)
        self._policy = policy
        for state in self.partitions.values():
            state.next_policy = policy
        _log.info("policy_accepted", version=policy.policy_version, mode=policy.mode)

    def committable(self, tp: TP) -> int | None:
        """Return the offset up to which everything is durable (the next one to read), or None."""
        state = self.partitions.get(tp.partition)
        fence = None if state is None else state.durable.get(tp.topic)
        return None if fence is None else fence + 1

    def positions(self) -> dict[TP, int]:
        """Return the next offset to read, of every place: behind the state."""
        return {
            TP(topic, state.partition): fence + 1
            for state in self.partitions.values()
            for topic, fence in state.fences.items()
        }

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
        await self._writer.give_way()

    def hold(self, chunk: Chunk, step: Step) -> None:
        """Apply a chunk together with the next snapshot of its partition."""
        state = self.partitions.get(chunk.tp.partition)
        if state is not None:
            state.waiting.append((chunk, step))

    def _advance(self, state: PartitionState, chunk: Chunk, step: Step) -> Iterator[list[Output]]:
        """Run what is new of a chunk through the pipeline; the state is whole again after the last output."""
        fence = state.fences.get(chunk.tp.topic, -1)
        if chunk.last <= fence:
            return
        messages = chunk.after(fence)
        state.whole = False
        started_ns = self._tracer.start()
        for outputs in step(state.pipeline, messages) if messages else ():
            self._metrics.count(outputs)
            self._tracer.tell(outputs, f"{chunk.tp.topic}/{chunk.tp.partition}/{chunk.last}", started_ns)
            yield list(list_outputs(outputs))
        if messages and chunk.tp.topic == self.events_topic:
            self._metrics.observe_latency(first_time_ms(messages))
        state.fences[chunk.tp.topic] = chunk.last
        state.whole = True
        state.note_change()

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
        held: list[Output] = []
        if state.next_policy is not None:
            outputs = state.pipeline.set_policy(state.next_policy)
            self._metrics.count(outputs)
            held += list_outputs(outputs)
            state.policy, state.next_policy = state.next_policy, None
            state.note_change()
            _log.info(
                "policy_in_force",
                partition=state.partition,
                version=state.policy.policy_version,
                mode=state.policy.mode,
            )
        waiting, state.waiting = state.waiting, []
        for chunk, step in waiting:
            for made in self._advance(state, chunk, step):
                held += made
        return held

    async def snapshot_all(self) -> None:
        """Make every partition that changed durable. Raises KafkaError."""
        for partition in list(self.partitions):
            await self.snapshot(partition)

    async def snapshot(self, partition: int) -> None:
        """Write a snapshot of a partition if it changed; return when it is durable. Raises KafkaError."""
        state = self.partitions.get(partition)
        if state is not None:
            async with state.snapshot_lock:
                await self._snapshot(state)

    async def _snapshot(self, state: PartitionState) -> None:
        async with state.lock:
            held = self._turn(state) if state.whole else None
            if not state.changed or not state.whole:
                return
            meta = SnapshotMeta(
                fences=dict(state.fences),
                outputs=self._writer.positions(state.partition),
                policy=state.policy,
                held=tuple(held or ()),
            )
            outputs, state.unstored, state.changed = state.unstored, [], False
            dump = await asyncio.to_thread(take_dump, state.pipeline, changed_only=state.shelf.number > 0)
            if held is not None:  # no event may see the turn before it is durable
                await self._write(state, dump, meta, outputs)
                state.unstored += await self._writer.publish(state.partition, held)
                return
        await self._write(state, dump, meta, outputs)

    async def _write(
        self,
        state: PartitionState,
        dump: Dump,
        meta: SnapshotMeta,
        outputs: list[asyncio.Future[Any]],
    ) -> None:
        with self._metrics.time_snapshot():
            await self._store.write(state.partition, state.shelf, dump, meta, outputs)
        state.durable = meta.fences
        await share_learned(state, self._writer)
        del state.undurable_since_s[:1]
        if state.found is not None and state.shelf.number > 1:
            found, state.found = state.found, None
            await self._store.remove(state.partition, found)

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
        kafka, security = self._settings.kafka, self._settings.kafka_security
        places = [(topic, partition) for topic in self.topics for partition in partitions]
        # Before the snapshots: what is committed was stored, so one of those that are read next has it.
        committed = await committed_offsets(kafka, self._settings.consumer_group, places, security=security)
        bounds = await log_bounds(kafka, places, security=security)
        self._partition_count = await count_partitions(kafka, self.events_topic, security=security)
        states: dict[int, PartitionState] = {}
        since: dict[int, dict[str, int]] = {}
        held: dict[int, tuple[Output, ...]] = {}
        found = await self._store.find(partitions)
        # While one is unpacked by a thread, the next is read.
        jobs = [partial(self._restore_one, one, generation) for one in found.values()]
        for partition, (state, meta) in zip(found, await run_few(jobs, RESTORED_AT_ONCE), strict=True):
            states[partition] = state
            state.replay_end = bounds[self.events_topic, partition][1]
            for topic in self.topics:
                place = topic, partition
                state.fences.setdefault(topic, _first_offset(committed[place], bounds[place]) - 1)
            if meta is None:
                begun = SnapshotMeta(fences=dict(state.fences), outputs={}, policy=state.policy)
                await self._store.begin(partition, state.shelf, begun)
            since[partition] = {} if meta is None else meta.outputs
            held[partition] = () if meta is None else meta.held
            check_fences(state, bounds, self._settings.topic("state"))
        await self._writer.recover(since)
        for state in states.values():
            state.unstored += await self._writer.publish(state.partition, held[state.partition])
            self._settle(state)
        return states

    async def _restore_one(self, found: Found, generation: int) -> tuple[PartitionState, SnapshotMeta | None]:
        """Return a partition's state as of its newest whole snapshot, or empty if there never was one."""
        restored = await self._store.read(found)
        pipeline = await asyncio.to_thread(self._build, self._settings)
        pipeline.set_place(found.partition, self._partition_count)
        meta = None if restored is None else restored[0].meta
        policy = self._set_policy(pipeline, None if meta is None else meta.policy)
        if restored is not None:
            manifest, parts = restored
            if parts:
                await asyncio.to_thread(pipeline.restore_parts, parts)
            _log.info(
                "state_restored",
                partition=found.partition,
                fences=manifest.meta.fences,
                bytes=manifest.size_bytes,
            )
        fences = {} if meta is None else meta.fences
        state = PartitionState(
            partition=found.partition,
            pipeline=pipeline,
            policy=policy,
            shelf=Shelf(next_generation(generation, found.highest_generation)),
            next_policy=self._next_policy(policy),
            fences=dict(fences),
            durable=dict(fences),
            found=found,
        )
        return state, meta

    def _next_policy(self, restored: PolicyInForce) -> PolicyInForce | None:
        """Return the policy that takes the place of a snapshot's; none that is older may."""
        if self._policy.sequence < restored.sequence:
            _log.error(
                "policy_refused",
                source=self._policy.policy_version,
                error=f"version {self._policy.sequence} is older than version {restored.sequence}, which was "
                "in force: use `modelwarden policy rollback` to go back on purpose",
            )
            self._metrics.instruments.add(catalogue.POLICY_REFUSED)
            return None
        return None if restored == self._policy else self._policy

    def _set_policy(self, pipeline: Pipeline, wanted: PolicyInForce | None) -> PolicyInForce:
        """Go on under the policy of the snapshot, if that is possible still; return the one in force."""
        if wanted is not None and wanted != self._policy:
            try:
                pipeline.begin(wanted)
            except PolicyError as error:
                _log.warning("replay_under_another_policy", wanted=wanted.policy_version, reason=str(error))
            else:
                return wanted
        pipeline.begin(self._policy)
        return self._policy

    def lags(self, end: Callable[[TP], int | None]) -> Iterator[Lag]:
        """Yield how far each partition's state is behind the ends that are known."""
        for state in self.partitions.values():
            for topic in sorted(self.topics):
                known = end(TP(topic, state.partition))
                if known is not None:
                    read = state.fences[topic] + 1
                    name = topic.removeprefix(self._settings.topic_prefix)
                    yield Lag(name, state.partition, max(known - read, 0))

    def snapshot_age_s(self) -> float:
        """Return the age of the oldest change that is not durable: what a crash would make others replay."""
        since = [s.undurable_since_s[0] for s in self.partitions.values() if s.undurable_since_s]
        return monotonic() - min(since) if since else 0.0


def _first_offset(committed: int | None, bounds: tuple[int, int]) -> int:
    """Return where a state without a fence begins: as committed (it was deleted), else at the oldest."""
    begin, end = bounds
    return committed if committed is not None and begin <= committed <= end else begin
