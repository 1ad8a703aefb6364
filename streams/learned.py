"""References that workers learn: each on the compacted topic `reference`, all of a model to be merged.

Every partition learns from its own keys, so with many partitions each knows few of them. A worker writes what
it has learned after each fit, under model and partition; a person merges (`modelwarden references merge`),
replays against the result, and deploys it as any other reference (`references_path`). Workers never take one
up by themselves: what they decide depends on their events and settings alone, so that it can be replayed.
Written again after a restart; only the newest counts, so once too often does no harm.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import structlog
from aiokafka.errors import KafkaError

from detectors.arrays import ArrayFormatError
from detectors.learner import borrow
from detectors.merging import LessonError, dump_to_merge, merge_references
from detectors.reference import ModelReference
from streams.errors import ModelwardenError
from streams.samples import load_references

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streams.bus.base import Bus
    from streams.outputs import OutputWriter
    from streams.partitionstate import PartitionState

TOPIC = "reference"

_log = structlog.get_logger(__name__)


async def share_learned(state: PartitionState, writer: OutputWriter) -> None:
    """Write what a partition's pipeline has learned since the last call.

    What cannot be written is logged, and tried again at the next call.
    """
    for reference in state.pipeline.learned():
        if state.shared.get(reference.model) is reference:
            continue
        key = msgspec.json.encode((reference.model, state.partition))
        try:
            await writer.write(TOPIC, key, await asyncio.to_thread(dump_to_merge, reference))
        except KafkaError as error:
            _log.warning("reference_not_shared", model=reference.model, error=str(error))
        else:
            state.shared[reference.model] = reference
            _log.info("reference_shared", model=reference.model, partition=state.partition)


class Shared(NamedTuple):
    """What one partition has learned of one model."""

    model: str
    partition: int
    reference: ModelReference


def read_shared(bus: Bus, topic: str) -> tuple[list[Shared], list[str]]:
    """Return the newest reference of each model and partition, in order, and what could not be read and why.

    Raises
    ------
    BusError
        If the brokers cannot be reached or the topic does not exist.
    """
    values: dict[bytes, bytes] = {}
    for batch in bus.read([topic]):
        for message in batch:
            values.pop(message.key or b"", None)
            if message.value is not None:
                values[message.key or b""] = message.value
    found, unread = [], []
    for key, value in values.items():
        try:
            _, partition = msgspec.json.decode(key, type=tuple[str, int])
            reference = ModelReference.load(value)
        except (msgspec.MsgspecError, ArrayFormatError, KeyError, TypeError, ValueError) as error:
            unread.append(f"{key.decode(errors='replace')[:200]}: {error}")
        else:
            found.append(Shared(reference.model, partition, reference))
    return sorted(found, key=lambda shared: shared[:2]), unread


def merge_shared(shared: list[Shared]) -> Mapping[str, ModelReference]:
    """Return one reference a model.

    Raises
    ------
    ModelwardenError
        If the references of a model do not fit together.
    """
    by_model: dict[str, list[ModelReference]] = defaultdict(list)
    for one in shared:
        by_model[one.model].append(one.reference)
    shipped = load_references()
    try:
        return {
            model: merge_references(references, borrowed=borrow(shipped, model))
            for model, references in sorted(by_model.items())
        }
    except LessonError as error:
        raise ModelwardenError(
            "merging", str(error), "Let the workers learn again: delete the topic"
        ) from error
