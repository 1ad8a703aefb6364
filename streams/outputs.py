"""What a worker writes: alerts, decisions, commands and dead letters, once each.

Every output has an id that depends only on the events it was made from, and stands in the header `id`. After
a crash the worker replays events whose outputs may stand on the topics already; `OutputWriter.recover` reads
their ids back, and those are not written again, until the replay is over (`settle`). Outputs of source
partition p go to partition p, so that each partition has one writer.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from aiokafka import AIOKafkaProducer

from streams.deadletter import dead_letter
from streams.recovery import read_to_end

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from streams.pipeline import Outputs
    from streams.settings import Settings

OUTPUT_TOPICS = ("alerts", "decisions", "commands", "audit", "dead-letter")
ID_HEADER = "id"
_TURNS = 4
"""Of the event loop, that a produce request takes to be sent."""

_log = structlog.get_logger(__name__)


class Output(msgspec.Struct, frozen=True):
    """One record to be written."""

    topic: str
    """Without prefix."""
    output_id: str
    key: str
    record: msgspec.Raw
    """Encoded."""


def list_outputs(outputs: Outputs) -> Iterator[Output]:
    """Yield the records to write, causes before effects."""
    for topic, output_id, key, record in _records(outputs):
        yield Output(topic, output_id, key, msgspec.Raw(msgspec.json.encode(record)))


def _records(outputs: Outputs) -> Iterator[tuple[str, str, str, Any]]:
    for rejection in outputs.rejections:
        letter = dead_letter(rejection)
        place = f"{letter.topic}/{letter.partition}/{letter.offset}"
        place += "" if letter.row is None else f"/{letter.row}"
        yield "dead-letter", place, place, letter
    for alert in outputs.alerts:
        yield "alerts", alert.alert_id, alert.key, alert
    for decision in outputs.decisions:
        yield "decisions", decision.decision_id, decision.key, decision
    for command in outputs.commands:
        yield "commands", command.command_id, f"{command.key}/{command.model or '*'}", command
    for entry in outputs.audit:
        yield "audit", entry.hash, f"{entry.partition}", entry


class OutputWriter:
    """One idempotent producer, and the ids that must not be written again."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer: Any = None
        self._unacknowledged = 0
        self._names = {settings.topic(name): name for name in OUTPUT_TOPICS}
        self._written: dict[tuple[str, int], set[bytes]] = {}
        self._positions: dict[tuple[str, int], int] = {}
        self._replay_starts: dict[tuple[str, int], int] = {}

    async def start(self) -> None:
        """Connect, and learn where the topics are: the first output would wait for it. Raises KafkaError."""
        self._producer = AIOKafkaProducer(
            bootstrap_servers=self._settings.kafka,
            **self._settings.kafka_security.client_arguments(),
            enable_idempotence=True,
            acks="all",
        )
        await self._producer.start()
        for topic in OUTPUT_TOPICS:
            await self._producer.partitions_for(self._settings.topic(topic))

    async def stop(self) -> None:
        """Write what is under way, then disconnect."""
        if self._producer is not None:
            await self._producer.stop()

    async def write(self, topic: str, key: bytes, value: bytes) -> None:
        """Write one record that is no output of an event, and return when it is stored. Raises KafkaError."""
        await self._producer.send_and_wait(self._settings.topic(topic), value, key=key, partition=0)

    async def publish(self, partition: int, outputs: Iterable[Output]) -> list[asyncio.Future[Any]]:
        """Begin to write the outputs of a source partition; the futures end when they are stored."""
        return [
            await self._publish(partition, output)
            for output in outputs
            if not self._is_written(partition, output)
        ]

    async def _publish(self, partition: int, output: Output) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = await self._producer.send(
            self._settings.topic(output.topic),
            bytes(output.record),
            key=output.key.encode(),
            partition=partition,
            headers=[(ID_HEADER, output.output_id.encode())],
        )
        self._unacknowledged += 1
        future.add_done_callback(lambda done: self._advance(output.topic, partition, done))
        return future

    async def give_way(self) -> None:
        """Let the producer go on before more events are processed, if it has anything to do.

        Sending a request and reading its response takes several turns of the event loop; each would come
        after another chunk of events.
        """
        for _ in range(_TURNS if self._unacknowledged else 0):
            await asyncio.sleep(0)

    def _is_written(self, partition: int, output: Output) -> bool:
        written = self._written.get((output.topic, partition))
        if not written or output.output_id.encode() not in written:
            return False
        written.discard(output.output_id.encode())
        return True

    def _advance(self, topic: str, partition: int, done: asyncio.Future[Any]) -> None:
        self._unacknowledged -= 1
        if not done.cancelled() and done.exception() is None:
            place = (topic, partition)
            self._positions[place] = max(self._positions.get(place, 0), done.result().offset + 1)

    def positions(self, partition: int) -> dict[str, int]:
        """Return, by topic, an offset that no output of the events yet to come can stand before.

        During a replay that is where the replay's own reading began: outputs of the events still to be
        replayed stand behind it.
        """
        places = [(topic, partition) for topic in OUTPUT_TOPICS]
        return {p[0]: self._replay_starts.get(p, self._positions.get(p, 0)) for p in places}

    def is_replaying(self, partition: int) -> bool:
        """Tell whether some of what was written after the snapshot has not been made again."""
        return any(self._written.get((topic, partition)) for topic in OUTPUT_TOPICS)

    def settle(self, partition: int) -> None:
        """End the partition's replay: nothing that comes now was written before."""
        for topic in OUTPUT_TOPICS:
            self._written.pop((topic, partition), None)
            self._replay_starts.pop((topic, partition), None)

    def forget(self, partition: int) -> None:
        """Drop what is known of a partition that another worker has now."""
        self.settle(partition)
        for topic in OUTPUT_TOPICS:
            self._positions.pop((topic, partition), None)

    async def recover(self, positions: Mapping[int, Mapping[str, int]]) -> None:
        """Read back what was written since each partition's snapshot. Raises KafkaError.

        Parameters
        ----------
        positions : mapping of int to mapping of str to int
            By partition and output topic, where to start reading.
        """
        starts: dict[tuple[str, int], int] = {}
        for partition, since in positions.items():
            self.forget(partition)
            for topic in OUTPUT_TOPICS:
                start = since.get(topic, 0)
                starts[self._settings.topic(topic), partition] = start
                self._positions[topic, partition] = self._replay_starts[topic, partition] = start
        async for record in read_to_end(self._settings.kafka, starts, security=self._settings.kafka_security):
            place = (self._names[record.topic], record.partition)
            self._positions[place] = record.offset + 1
            self._written.setdefault(place, set()).update(_ids(record.headers))
        count = sum(len(self._written.get((t, p), ())) for p in positions for t in OUTPUT_TOPICS)
        _log.info("outputs_recovered", partitions=sorted(positions), written_after_snapshot=count)


def _ids(headers: Iterable[tuple[str, bytes]]) -> list[bytes]:
    return [value for name, value in headers if name == ID_HEADER]
