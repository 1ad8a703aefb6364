"""The consumer that delivers chunks and commits only what is durable.

How it differs from Faust's:

* What is fetched of the topics of `Fences` stays undecoded (`streams.faustbatch.fetch`).
* `_drain_messages` wraps a chunk of one partition's records in one message. Stock Faust makes four asyncio
  tasks per record here.
* `_new_offset` ignores which messages were acknowledged: what may be committed is what `Fences` says is
  durable. Acknowledged means read by an agent; durable means that the state which contains it, and every
  output made from it, are stored.
* After a rebalance it reads on from the restored state's own position, wherever the group's offset stands.
* While an agent's queue is full it waits for room, not for the topics that are still asked.
* A chunk fetched before the position was last moved is recognised by its `seek_count`: such chunks can
  survive a rebalance in a queue, and delivering one would look like a gap in the partition.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from aiokafka.consumer.group_coordinator import GroupCoordinator
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

from streams.faustbatch.fetch import use_blocks
from streams.faustbatch.gate import FetchGate
from streams.faustbatch.receive import receive_frames
from streams.faustbatch.shapes import has_fetch_shape, has_receive_shape
from streams.faustbatch.topic import Chunk, RecordList
from streams.recordblock import VALUE_SIZE, RecordBlock

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from aiokafka import AIOKafkaConsumer

    from streams.faustbatch.topic import Records

_log = structlog.get_logger(__name__)
_POLL_S = 1.0
_FULL_POLL_S = 0.01
"""How long to wait for room in a full queue before the other topics are asked again."""
FETCH_WAIT_MS = 50
"""How long the broker may hold a fetch back that finds nothing. A partition that was emptied meanwhile waits
for it too: Faust's 1,500 ms would be the tail of our latency."""


class Fences(Protocol):
    """How far each partition's state is; `app.fences` must be one."""

    topics: frozenset[str]
    """Topics delivered in chunks and committed by these fences."""
    max_chunk_events: int
    """Most events in one chunk, unless a single record has more."""

    def committable(self, tp: TP) -> int | None:
        """Return the offset up to which everything is durable (the next one to read), or None."""

    def positions(self) -> Mapping[TP, int]:
        """Return the next offset to read of every place of `topics` that is assigned."""

    async def drained(self) -> None:
        """Make everything processed durable: nothing is being processed now, and partitions may be lost."""


def group_failure(consumer: AIOKafkaConsumer | None) -> BaseException | None:
    """Return what ended a consumer's part in its group, if anything did.

    aiokafka keeps such an error for the next caller of a method that Faust never calls: the worker would wait
    for its partitions for ever, and nobody would know.
    """
    coordinator = getattr(consumer, "_coordinator", None)
    if not isinstance(coordinator, GroupCoordinator):  # not connected yet
        return None
    routine = coordinator._coordination_task  # noqa: SLF001 - as told
    ended: BaseException | None = None
    if routine.done() and not routine.cancelled():
        ended = routine.exception()
    return ended or coordinator._pending_exception  # noqa: SLF001 - as told


class _ConsumerThread(driver.AIOKafkaConsumerThread):
    """The thread that talks to the group."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        made = super()._create_worker_consumer(transport)
        made._isolation_level = "read_committed"  # noqa: SLF001 - Faust ties it to its own transactions
        made._fetch_max_wait_ms = FETCH_WAIT_MS  # noqa: SLF001 - Faust hard-codes it
        return made

    async def on_start(self) -> None:
        """Connect, and fetch undecoded batches from then on, in buffers of their own."""
        await super().on_start()
        if has_fetch_shape():
            use_blocks(self._consumer, self.app.fences.topics, self.consumer.gate)
            if has_receive_shape():
                receive_frames(self._consumer._client)  # noqa: SLF001 - shapes.py checks it

    async def _fetch_records(self, *args: Any, **options: Any) -> Any:
        """Take what was fetched; the next fetch waits until little of it is left to do."""
        records = await super()._fetch_records(*args, **options)
        blocks = [one for found in records.values() for one in found if isinstance(one, RecordBlock)]
        self.consumer.gate.close(sum(int(block.spans[VALUE_SIZE].sum()) for block in blocks))
        return records

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        """Commit what is still ours: every partition may have been lost by now."""
        assigned = self.assignment()
        mine = {tp: offset for tp, offset in offsets.items() if tp in assigned}
        return bool(mine) and bool(await super()._commit(mine))


class BatchConsumer(driver.Consumer):
    """Faust's aiokafka consumer, in chunks and behind fences."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.seek_count = 0
        self._room = asyncio.Event()
        self.gate = FetchGate(lambda: len(self.unacked))

    @property
    def _fences(self) -> Fences:
        fences: Fences = self.app.fences
        return fences

    def end_offset(self, tp: TP) -> int | None:
        """Return the offset that the partition's next record will get, as last heard; None if not known."""
        try:
            end: int | None = self.highwater(tp)
        except (AssertionError, AttributeError):  # the group, in its own thread, has just taken it away
            return None
        return end

    @property
    def group_failure(self) -> BaseException | None:
        """What ended this consumer's part in its group, if anything did: it gets no partitions any more."""
        return group_failure(self._thread._consumer)  # noqa: SLF001 - Faust's, as told in `shapes`

    def _new_consumer_thread(self) -> _ConsumerThread:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        """Commit, unless the consumer is being stopped.

        Its thread may then be waiting for the end of a rebalance, and the rebalance for this. What there was
        to commit has been committed when the application stopped.
        """
        if self.should_stop:
            return False
        waited = await self.wait(self._thread.commit(offsets))
        return bool(waited.result)

    def stop_flow(self) -> None:
        """Stop delivering; whatever is under way now is out of date."""
        self.seek_count += 1
        super().stop_flow()

    async def perform_seek(self) -> None:
        """Go to where the state is.

        Never left to the group's offsets alone: where nothing is committed yet, seeking to the committed
        offset does not move, and what was fetched and dropped would be lost.
        """
        self.seek_count += 1
        await super().perform_seek()
        assigned = self.assignment()
        wanted = {tp: o for tp, o in self._fences.positions().items() if tp in assigned}
        if wanted:
            await self.seek_wait(wanted)
        self._read_offset.update(wanted)

    async def wait_empty(self) -> None:
        """Wait for what is being processed, then make it durable and commit it."""
        await super().wait_empty()
        await self._fences.drained()
        assigned = self.assignment()
        offsets = {tp: self._fences.committable(tp) for tp in assigned if tp.topic in self._fences.topics}
        known = {tp: offset for tp, offset in offsets.items() if offset is not None}
        if known:
            await self._commit(known)

    def _new_offset(self, tp: TP) -> int | None:
        if tp.topic not in self._fences.topics:
            offset: int | None = super()._new_offset(tp)
            return offset
        self._acked[tp].clear()
        self._acked_index[tp].clear()
        return self._fences.committable(tp)

    def ack(self, message: Any) -> bool:
        """Note that a message is processed."""
        acked = bool(super().ack(message))
        self.gate.check()
        return acked

    def on_buffer_drop(self, tp: TP) -> None:
        """Take a partition up again, now that its agent's queue has room."""
        super().on_buffer_drop(tp)
        self._room.set()

    async def _wait_next_records(self, timeout: float) -> Any:  # noqa: ASYNC109 - Faust's signature
        """Return what was fetched, by partition, and the partitions that were asked for it.

        Faust leaves out partitions whose queue is full, and waits a second for the others, or for none: long
        after the queue has room.
        """
        if self.flow_active and self._buffered_partitions:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._room.wait(), _FULL_POLL_S)
            self._room.clear()
            if not self._get_active_partitions():
                return {}, set()
            timeout = 0
        return await super()._wait_next_records(timeout)

    async def _drain_messages(self, fetcher: Any) -> None:
        try:
            while not (self.should_stop or fetcher.should_stop):
                await asyncio.sleep(0)
                seek_count = self.seek_count
                records, active = await self._wait_next_records(_POLL_S)
                if not records or self.should_stop:
                    continue
                if not self.flow_active or self.seek_count != seek_count:
                    # Fetched before or after the move, there is no telling: read it again.
                    await self.perform_seek()
                    continue
                await self._deliver(records, active)
                self.gate.delivered()
        except self.consumer_stopped_errors:
            if not self.transport.app.should_stop:
                raise
        except asyncio.CancelledError:
            if not self.transport.app.should_stop:
                raise
        except Exception:
            _log.exception("delivering records failed")
            raise

    async def _deliver(self, records: Mapping[Any, Sequence[Any]], active: set[TP] | None) -> None:
        """Hand one fetch's records to the conductor, until the flow stops."""
        generation, seek_count = self.app.consumer_generation_id, self.seek_count
        for place, found in records.items():
            tp = TP(*place)
            if not (active is None or tp in active or tp in self._buffered_partitions):
                continue
            for message in self._messages(tp, found, generation):
                if self.seek_count != seek_count or self.app.consumer_generation_id != generation:
                    return
                await self.callback(message)
                if self.seek_count != seek_count:
                    return
                self._read_offset[tp] = message.offset

    def _messages(self, tp: TP, records: Sequence[Any], generation: int) -> Iterator[Any]:
        if tp.topic in self._fences.topics:
            for piece in self._pieces(records):
                yield self._chunk_message(Chunk(tp, piece, self.seek_count), generation)
        else:
            yield from (self._to_message(tp, record) for record in records)

    def _pieces(self, records: Sequence[Any]) -> Iterator[Records]:
        """Cut one partition's part of a fetch: blocks, or the records themselves."""
        size = self._fences.max_chunk_events
        if isinstance(records[0], RecordBlock):
            for block in records:
                yield from block.cut(size)
        else:
            yield from (RecordList(records[start : start + size]) for start in range(0, len(records), size))

    def _chunk_message(self, chunk: Chunk, generation: int) -> Any:
        return ConsumerMessage(
            chunk.tp.topic,
            chunk.tp.partition,
            chunk.last,
            monotonic(),
            0,
            None,
            None,
            chunk,
            None,
            tp=chunk.tp,
            generation_id=generation,
        )
