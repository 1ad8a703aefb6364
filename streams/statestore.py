"""Writing and reading snapshots: the protocol of `streams.snapshot` on Kafka.

Who calls it: `streams.state`, one writer per partition and generation. Snapshots have a producer of their
own, so that no command waits behind megabytes of state.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog
from aiokafka import AIOKafkaProducer
from crc32c import crc32c

from streams.errors import StateVersionError
from streams.recovery import log_bounds, read_offsets, read_to_end
from streams.snapshot import (
    Manifest,
    Plan,
    Shelf,
    Stored,
    decode_record,
    encode_record,
    other_format,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from streams.pipeline import Pipeline
    from streams.settings import Settings
    from streams.snapshot import PartEntry, SnapshotMeta

_BATCH_BYTES = 1024 * 1024 - 4096
"""One piece with its key; a batch is what the producer waits for before it takes the next piece."""

_FORMAT_1, _FORMAT_1_KEY_BYTES = b"\x00\x01", 17
"""How a snapshot of format 1 began, whole on the state topic."""

_log = structlog.get_logger(__name__)


class Dump(NamedTuple):
    """A pipeline's state at one moment: the parts that changed, their checksums, and the names of all."""

    changed: dict[str, bytes]
    checksums: dict[str, int]
    names: frozenset[str]


def take_dump(pipeline: Pipeline, *, changed_only: bool) -> Dump:
    """Dump and checksum; may run in a thread, while nobody else uses the pipeline."""
    changed = dict(pipeline.dump_parts(changed_only=changed_only))
    checksums = {name: crc32c(part) for name, part in changed.items()}
    return Dump(changed, checksums, pipeline.part_names)


@dataclass(slots=True)
class Found:
    """What stands on the topics about one partition.

    Attributes
    ----------
    manifests : list of Manifest
        Complete snapshots, newest first.
    plans : list of Plan
        What earlier generations may have left on the state topic.
    """

    partition: int
    manifests: list[Manifest] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    keys: set[bytes] = field(default_factory=set)

    @property
    def highest_generation(self) -> int:
        """The highest generation that wrote, or 0."""
        records: list[Manifest | Plan] = [*self.manifests, *self.plans]
        return max((record.generation for record in records), default=0)


class StateStore:
    """The snapshots of a deployment.

    Parameters
    ----------
    settings : Settings
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._parts_topic = settings.topic("state")
        self._records_topic = settings.topic("snapshots")
        self._producer: Any = None

    async def start(self) -> None:
        """Connect. Raises KafkaError."""
        self._producer = AIOKafkaProducer(
            bootstrap_servers=self._settings.kafka,
            **self._settings.kafka_security.client_arguments(),
            enable_idempotence=True,
            acks="all",
            max_batch_size=_BATCH_BYTES,
        )
        await self._producer.start()

    async def stop(self) -> None:
        """Write what is under way, then disconnect."""
        if self._producer is not None:
            await self._producer.stop()

    async def begin(self, partition: int, shelf: Shelf, meta: SnapshotMeta) -> None:
        """Store where an empty state begins: a snapshot without parts, to fall back to. Raises KafkaError."""
        manifest = Manifest(generation=shelf.generation, number=0, meta=meta, parts={})
        await self._write_record(partition, manifest)

    async def write(
        self,
        partition: int,
        shelf: Shelf,
        dump: Dump,
        meta: SnapshotMeta,
        outputs: Iterable[asyncio.Future[Any]],
    ) -> None:
        """Store one snapshot; it is durable, with the outputs made before it, when this returns.

        Raises
        ------
        KafkaError
            If it cannot be stored; the shelf must then not be used any more.
        """
        plan = shelf.place({name: len(part) for name, part in dump.changed.items()})
        await self._write_record(partition, plan)
        sent: dict[str, list[asyncio.Future[Any]]] = {}
        for name, part in dump.changed.items():
            for piece in shelf.cut(name, part):
                future = await self._producer.send(
                    self._parts_topic, piece.value, key=piece.key, partition=partition
                )
                sent.setdefault(name, []).append(future)
        stored: dict[str, Stored] = {}
        for name, futures in sent.items():
            told = await asyncio.gather(*futures)
            offsets = tuple(record.offset for record in told)
            stored[name] = Stored(len(dump.changed[name]), dump.checksums[name], offsets)
        await asyncio.gather(*outputs)
        parts = shelf.list_parts(stored, dump.names)
        await self._write_record(
            partition, Manifest(generation=shelf.generation, number=shelf.number, meta=meta, parts=parts)
        )
        await self._delete(self._parts_topic, partition, shelf.complete(parts))

    async def _write_record(self, partition: int, record: Manifest | Plan) -> None:
        key, value = encode_record(record)
        await self._producer.send_and_wait(self._records_topic, value, key=key, partition=partition)

    async def _delete(self, topic: str, partition: int, keys: Iterable[bytes]) -> None:
        sent = [await self._producer.send(topic, None, key=key, partition=partition) for key in keys]
        await asyncio.gather(*sent)

    async def remove(self, partition: int, old: Found) -> None:
        """Take what earlier generations left off the topics. Raises KafkaError.

        Their plans go last: should this be cut short, whoever comes next finds them and does it again.
        """
        for plan in old.plans:
            await self._delete(self._parts_topic, partition, plan.keys())
        await self._delete(self._records_topic, partition, old.keys)

    async def find(self, partitions: Iterable[int]) -> dict[int, Found]:
        """Read which snapshots there are.

        Raises
        ------
        StateVersionError
            If another version wrote them.
        KafkaError
            If they cannot be read.
        """
        found = {partition: Found(partition) for partition in partitions}
        # Looked at first: whoever writes parts has written a plan before.
        bounds = await log_bounds(
            self._settings.kafka,
            [(self._parts_topic, p) for p in found],
            security=self._settings.kafka_security,
        )
        records: dict[int, dict[bytes, Manifest | Plan]] = {partition: {} for partition in found}
        places = {(self._records_topic, partition): 0 for partition in found}
        async for message in read_to_end(
            self._settings.kafka, places, security=self._settings.kafka_security
        ):
            key = message.key or b""
            records[message.partition].pop(key, None)
            found[message.partition].keys.discard(key)
            if message.value is None:
                continue
            found[message.partition].keys.add(key)
            record = decode_record(key, message.value)
            if isinstance(record, str):
                _log.warning("snapshot_skipped", partition=message.partition, reason=record)
            else:
                records[message.partition][key] = record
        for partition, of in records.items():
            manifests = [record for record in of.values() if isinstance(record, Manifest)]
            found[partition].manifests = sorted(manifests, key=_age, reverse=True)
            found[partition].plans = [record for record in of.values() if isinstance(record, Plan)]
        await self._refuse_without_manifest(
            {
                (topic, partition): begin
                for (topic, partition), (begin, end) in bounds.items()
                if begin < end and not found[partition].keys
            }
        )
        return found

    async def _refuse_without_manifest(self, starts: Mapping[tuple[str, int], int]) -> None:
        """Refuse state without any manifest: of format 1, or orphaned; an empty topic is a beginning."""
        async for record in read_to_end(self._settings.kafka, starts, security=self._settings.kafka_security):
            if record.value is None:
                continue
            if record.value[:2] == _FORMAT_1 and len(record.key) == _FORMAT_1_KEY_BYTES:
                raise other_format(1)
            raise StateVersionError(
                f"the topic {self._parts_topic}",
                f"it holds parts of snapshots, and {self._records_topic} no snapshot: it was made anew",
                f"Delete and create {self._parts_topic} too, to begin anew from the committed offsets",
            )

    async def read(self, found: Found) -> tuple[Manifest, dict[str, bytes]] | None:
        """Return the newest whole snapshot of a partition with its parts; None if there never was one.

        Raises
        ------
        StateVersionError
            If there are snapshots and none of them is whole.
        KafkaError
            If they cannot be read.
        """
        for manifest in found.manifests:
            parts = await self._read_parts(found.partition, manifest)
            if parts is not None:
                return manifest, parts
        if not found.manifests:
            return None
        raise StateVersionError(
            f"the state of partition {found.partition}",
            f"none of its {len(found.manifests)} snapshots is whole any more",
            f"Restore the topic {self._parts_topic}, or delete it and {self._records_topic} to begin anew "
            "from the committed offsets",
        )

    async def _read_parts(self, partition: int, manifest: Manifest) -> dict[str, bytes] | None:
        """Read the parts that a manifest names; None, and a line in the log, if one is missing or damaged."""
        offsets = sorted(offset for entry in manifest.parts.values() for offset in entry.offsets)
        place = (self._parts_topic, partition)
        found = [
            record
            async for record in read_offsets(
                self._settings.kafka, place, offsets, security=self._settings.kafka_security
            )
        ]
        pieces = {record.offset: record.value for record in found if record.value is not None}
        parts = await asyncio.to_thread(_join, manifest.parts, pieces)
        wrong = [name for name, part in parts.items() if part is None]
        if not wrong:
            return {name: part for name, part in parts.items() if part is not None}
        _log.warning(
            "snapshot_skipped",
            partition=partition,
            reason=f"snapshot {manifest.number} of generation {manifest.generation}: part {wrong[0]} is "
            f"missing or damaged (and {len(wrong) - 1} more)",
        )
        return None


def _age(manifest: Manifest) -> tuple[int, int]:
    return manifest.generation, manifest.number


def _join(entries: Mapping[str, PartEntry], pieces: dict[int, bytes]) -> dict[str, bytes | None]:
    """Put pieces together; None stands for a part that is not as it was written."""
    parts: dict[str, bytes | None] = {}
    for name, entry in entries.items():
        found = [pieces.pop(offset, b"") for offset in entry.offsets]
        part = found[0] if len(found) == 1 else b"".join(found)
        whole = len(part) == entry.size_bytes and crc32c(part) == entry.checksum
        parts[name] = part if whole else None
    return parts
