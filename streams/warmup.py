"""Compile every kernel before a worker subscribes: later, compiling would look like a stall to its group.

Who calls it: the worker at its start, and `modelwarden warmup`, which fills the kernels' cache for workers to
come. What is compiled is found by use: events in all formats, as Kafka sends them, through a pipeline that is
thrown away, its state written and read again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from detectors.batch import format_key_reference
from sinks.records import ServingEvent
from sinks.serving.event import encode_event
from sinks.serving.formats import COLUMNS, FORMAT_HEADER, RECORD, encode_columns, encode_record
from sinks.serving.sketch import encode_sketch
from streams.clock import SystemClock
from streams.faustbatch.unpack import unpack_fetch
from streams.pipeline import load_references

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from streams.pipeline import Pipeline
    from streams.recordblock import RecordBlock
    from streams.settings import Settings

_START_MS = 1_700_000_000_000
_KEYS, _ROUNDS = 24, 16
"""So many that a model without a reference learns its first one, in the last of three formats."""


class Warmed(NamedTuple):
    """One step of a warm-up."""

    step: str
    seconds: float


def warm_up(build: Callable[[Settings], Pipeline], settings: Settings) -> list[Warmed]:
    """Compile what a worker with these settings runs; return how long each step took."""
    clock, found = SystemClock(), []
    start_s = clock.monotonic_s()

    def done(step: str) -> None:
        nonlocal start_s
        end_s = clock.monotonic_s()
        found.append(Warmed(step, end_s - start_s))
        start_s = end_s

    pipeline = build(settings)
    done("references and policy")
    events = list(_events(_models(settings)))
    for name, encode in _FORMATS.items():
        pipeline.process(_fetch(encode(events)))
        done(f"{name}, detection")
    # To numba a single row is another kind of array.
    for encode in _FORMATS.values():
        for event in events[: len(_models(settings))]:
            pipeline.process(_fetch(encode([event])))
    done("single events")
    if hasattr(pipeline, "dump_parts"):
        parts = dict(pipeline.dump_parts(changed_only=False))
        build(settings).restore_parts(parts)
        done("state")
    return found


def _models(settings: Settings) -> list[str]:
    known = [] if settings.references_path is None else list(load_references(settings.references_path))
    return [*known, "warm-up"]


def _events(models: Sequence[str]) -> Iterator[ServingEvent]:
    draw = np.random.default_rng(0)
    for number in range(_KEYS * _ROUNDS):
        for model in models:
            sketch = encode_sketch(draw.standard_normal(32).astype(np.float16))
            yield ServingEvent(
                time_ms=_START_MS + number,
                key=format_key_reference(0, 0, number % _KEYS),
                model=model,
                input_sketch=sketch,
                embedding_sketch=sketch,
                predicted_class=number % 3,
                top1=0.5,
                margin=0.1,
                entropy_nats=1.0,
                prompt_tokens=number,
                completion_tokens=number,
            )


def _fetch(messages: Sequence[tuple[bytes, bytes | None]]) -> RecordBlock:
    """Return messages, with the formats that their headers name, as a fetch brings them."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 30,
    )
    for offset, (value, event_format) in enumerate(messages):
        headers = [] if event_format is None else [(FORMAT_HEADER, event_format)]
        builder.append(offset, timestamp=_START_MS, key=b"k", value=value, headers=headers)
    block = unpack_fetch("warm-up", 0, bytes(builder.build()), 0).block
    if block is None:
        raise AssertionError("a batch of our own cannot be read: a defect of the program")
    return block


_FORMATS: dict[str, Callable[[Sequence[ServingEvent]], list[tuple[bytes, bytes | None]]]] = {
    "JSON": lambda events: [(encode_event(event), None) for event in events],
    "binary records": lambda events: [(encode_record(event), RECORD) for event in events],
    "micro-batches": lambda events: [(encode_columns(events), COLUMNS)],
}
"""Messages of the same events in every format, and what their headers say."""
