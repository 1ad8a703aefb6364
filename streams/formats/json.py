"""JSON events of a block to columns: the scanner first, the careful reader for what it is not sure of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from detectors.batch import EventBatch
from sinks.serving.formats import FLOATS, INTEGERS, NAMES, SKETCHES
from streams.formats.base import EARLIEST_MS
from streams.formats.batches import Decoded, join_decoded
from streams.formats.careful import read_events
from streams.formats.jsonscan import Scanned, scan_json
from streams.formats.names import intern_names
from streams.formats.sketches import decode_base64_sketches
from streams.recordblock import OFFSET, PARTITION, VALUE_SIZE, VALUE_START, RecordBlock

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streams.bus.base import Message
    from streams.formats.base import Limits


def decode_json(block: RecordBlock, limits: Limits) -> Decoded:
    """Decode a block of JSON messages."""
    spans = block.spans
    scanned = scan_json(
        block.data,
        spans[VALUE_START],
        spans[VALUE_SIZE],
        earliest_ms=EARLIEST_MS,
        latest_ms=limits.latest_ms,
        max_bytes=limits.max_bytes,
    )
    sketches = {
        name: decode_base64_sketches(block.data, starts, scanned.sure)
        for name, starts in zip(SKETCHES, scanned.sketch_start, strict=True)
    }
    if scanned.sure.all():
        return Decoded(_build(block, scanned, sketches, slice(None)), np.arange(len(block)), [])
    return _with_judge(block, scanned, sketches, limits)


def _with_judge(
    block: RecordBlock, scanned: Scanned, sketches: dict[str, NDArray[np.float32]], limits: Limits
) -> Decoded:
    """Let the careful reader decide on the messages that the scanner was not sure of."""
    doubtful = np.flatnonzero(~scanned.sure)
    messages: list[Message] = [block[row] for row in doubtful.tolist()]
    judged, refused = read_events(messages, block.topic, limits)
    batches, rows = [], []
    if scanned.sure.any():
        rows.append(np.flatnonzero(scanned.sure))
        batches.append(_build(block, scanned, sketches, rows[0]))
    if judged is not None:
        is_taken = np.ones(len(doubtful), np.bool_)
        is_taken[[at for at, _ in refused]] = False
        rows.append(doubtful[is_taken])
        batches.append(judged)
    rejections = [(int(doubtful[at]), rejection) for at, rejection in refused]
    return join_decoded([Decoded(batch, at, []) for batch, at in zip(batches, rows, strict=True)], rejections)


def _build(
    block: RecordBlock,
    scanned: Scanned,
    sketches: dict[str, NDArray[np.float32]],
    rows: NDArray[np.intp] | slice,
) -> EventBatch:
    """Make a batch of the rows that are sure."""
    columns: dict[str, Any] = {name: scanned.integers[at, rows] for at, name in enumerate(INTEGERS)}
    columns |= {name: scanned.floats[at, rows] for at, name in enumerate(FLOATS)}
    columns |= {name: values[rows] for name, values in sketches.items()}
    for at, name in enumerate(NAMES):
        starts, sizes = scanned.name_start[at, rows], scanned.name_size[at, rows]
        columns[name], found = intern_names(block.data, starts, sizes)
        columns[f"{name}s"] = tuple(text.decode("ascii") for text in found)
    return EventBatch(
        key=scanned.key[rows],
        key_epoch=scanned.key_epoch[rows],
        time_ms=scanned.time_ms[rows],
        prefix_hash=scanned.prefix_hash[rows],
        partition=block.spans[PARTITION, rows].astype(np.int32),
        offset=block.spans[OFFSET, rows].copy(),
        topic=block.topic,
        **columns,
    )
