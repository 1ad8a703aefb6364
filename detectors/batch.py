"""The column contract: what every decoder makes and every detector reads.

Who builds it: decoders in `streams.codec` (one per wire format). Who reads it: `detectors.engine` and the
signals. A batch is never changed after it was built; rows stand in order of arrival.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SKETCH_SIZE = 32
"""Numbers in a sketch: a fixed L2-preserving projection, float16 on the wire, float32 in a batch."""

KEY_REFERENCE = re.compile(r"k(0|[1-9][0-9]{0,4})-([0-9a-f]{32})")
"""Form of a key reference on a topic: rotation epoch (0 to 65535), then 128 bits of an HMAC."""

SYNTHETIC_EPOCH = 0xFFFF
"""Rotation epoch of the canary's keys: watched like others, but never learned from, linked, counted as a
hypothesis or commanded."""

ABSENT = -1
"""Stands in integer columns where the event gave no value; NaN does in float columns."""


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Events as columns; each array has one row per event (n rows).

    Attributes
    ----------
    key : uint64 (n, 2)
        The 16 bytes of the key reference's HMAC, as two big-endian numbers.
    key_epoch : uint16 (n,)
        Rotation epoch of the HMAC secret.
    model, tenant, plan : int32 (n,)
        Index into `models`, `tenants`, `plans`; -1 where the event named none (never for `model`).
    time_ms : int64 (n,)
        The event's own time, milliseconds since 1970.
    input_sketch, embedding_sketch : float32 (n, 32)
        Sketches of the input and of its embedding; a row of NaN where absent. Never infinite.
    predicted_class : int32 (n,)
        -1 where absent.
    top1, margin, entropy_nats : float32 (n,)
        Top-1 probability, top-1 minus top-2, entropy of the answer in nats; NaN where absent.
    prompt_tokens, completion_tokens, max_tokens, top_logprobs, logit_bias_count, choice_count : int32 (n,)
        LLM sizes and request parameters; -1 where absent.
    temperature : float32 (n,)
        NaN where absent.
    prefix_hash : uint64 (n,)
        Hash of the system prompt or template; 0 where absent.
    partition : int32 (n,)
        Source partition.
    offset : int64 (n,)
        Source offset within the partition, ascending per partition.
    topic : str
        Where the events came from; part of every alert's deterministic id.
    models, tenants, plans : tuple of str
        The names that the index columns stand for.
    """

    key: NDArray[np.uint64]
    key_epoch: NDArray[np.uint16]
    model: NDArray[np.int32]
    tenant: NDArray[np.int32]
    plan: NDArray[np.int32]
    time_ms: NDArray[np.int64]
    input_sketch: NDArray[np.float32]
    embedding_sketch: NDArray[np.float32]
    predicted_class: NDArray[np.int32]
    top1: NDArray[np.float32]
    margin: NDArray[np.float32]
    entropy_nats: NDArray[np.float32]
    prompt_tokens: NDArray[np.int32]
    completion_tokens: NDArray[np.int32]
    max_tokens: NDArray[np.int32]
    top_logprobs: NDArray[np.int32]
    logit_bias_count: NDArray[np.int32]
    choice_count: NDArray[np.int32]
    temperature: NDArray[np.float32]
    prefix_hash: NDArray[np.uint64]
    partition: NDArray[np.int32]
    offset: NDArray[np.int64]
    topic: str
    models: tuple[str, ...]
    tenants: tuple[str, ...] = ()
    plans: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Count the events."""
        return len(self.time_ms)

    def subject(self, row: int) -> tuple[str, str]:
        """Return the key reference and the model of a row."""
        key = format_key_reference(self.key_epoch[row], *self.key[row])
        return key, self.models[self.model[row]]

    def take(self, rows: NDArray[Any] | slice) -> Self:
        """Return the batch of the chosen rows (indices, mask or slice), same names."""
        if isinstance(rows, slice) and rows.indices(len(self)) == (0, len(self), 1):
            return self
        if isinstance(rows, slice):
            columns = [column[rows] for column in _columns_of(self)]
        else:
            places = rows.nonzero()[0] if rows.dtype == np.bool_ else rows
            # Several times as fast as indexing where a row has more than one number.
            columns = [column.take(places, 0) for column in _columns_of(self)]
        taken: dict[str, Any] = dict(zip(COLUMNS, columns, strict=True))
        taken |= {"topic": self.topic, "models": self.models, "tenants": self.tenants, "plans": self.plans}
        return type(self)(**taken)


COLUMNS: tuple[str, ...] = tuple(
    f.name for f in fields(EventBatch) if f.name not in {"topic", "models", "tenants", "plans"}
)
"""Names of the array columns, in order."""
_columns_of = attrgetter(*COLUMNS)

_DEFAULTS: dict[str, tuple[Any, Any]] = {
    "key_epoch": (np.uint16, 0),
    "tenant": (np.int32, ABSENT),
    "plan": (np.int32, ABSENT),
    "predicted_class": (np.int32, ABSENT),
    "top1": (np.float32, np.nan),
    "margin": (np.float32, np.nan),
    "entropy_nats": (np.float32, np.nan),
    "prompt_tokens": (np.int32, ABSENT),
    "completion_tokens": (np.int32, ABSENT),
    "max_tokens": (np.int32, ABSENT),
    "top_logprobs": (np.int32, ABSENT),
    "logit_bias_count": (np.int32, ABSENT),
    "choice_count": (np.int32, ABSENT),
    "temperature": (np.float32, np.nan),
    "prefix_hash": (np.uint64, 0),
    "partition": (np.int32, 0),
}


def build_batch(
    *,
    key: NDArray[np.uint64],
    time_ms: NDArray[np.int64],
    model: NDArray[np.int32],
    models: tuple[str, ...],
    topic: str,
    offset: NDArray[np.int64],
    tenants: tuple[str, ...] = (),
    plans: tuple[str, ...] = (),
    **columns: NDArray[Any],
) -> EventBatch:
    """Build a batch; a column not given is absent in every row.

    Raises
    ------
    ValueError
        If a column is unknown, or its number of rows is not that of `time_ms`.
    """
    count = len(time_ms)
    filled: dict[str, NDArray[Any]] = {"key": key, "time_ms": time_ms, "model": model, "offset": offset}
    for name, (dtype, default) in _DEFAULTS.items():
        given = columns.pop(name, None)
        filled[name] = np.full(count, default, dtype) if given is None else np.asarray(given, dtype)
    for name in ("input_sketch", "embedding_sketch"):
        given = columns.pop(name, None)
        blank = np.full((count, SKETCH_SIZE), np.nan, np.float32)
        filled[name] = blank if given is None else np.asarray(given, np.float32)
    if columns:
        raise ValueError(f"unknown columns {sorted(columns)}; an event batch has {list(COLUMNS)}")
    wrong = [name for name, values in filled.items() if len(values) != count]
    if wrong:
        raise ValueError(f"columns {wrong} have another number of rows than time_ms ({count})")
    return EventBatch(**filled, topic=topic, models=models, tenants=tenants, plans=plans)


def parse_key_reference(reference: str) -> tuple[int, int, int]:
    """Split a key reference into (epoch, high 64 bits, low 64 bits).

    Raises
    ------
    ValueError
        If the text is not of the form of `KEY_REFERENCE` or its epoch is above 65535. The message does not
        repeat the text: it may be a raw key sent by mistake.
    """
    match = KEY_REFERENCE.fullmatch(reference)
    if match is None or int(match[1]) > 0xFFFF:
        raise ValueError("not a key reference: expected k<epoch>-<32 hex digits>, as sinks.keyref makes them")
    digest = match[2]
    return int(match[1]), int(digest[:16], 16), int(digest[16:], 16)


def format_key_reference(epoch: int, high: int, low: int) -> str:
    """Write a key reference from its parts; the inverse of `parse_key_reference`."""
    return f"k{int(epoch)}-{int(high):016x}{int(low):016x}"


def concatenate(batches: Sequence[EventBatch]) -> EventBatch:
    """Join batches that share `topic`, `models`, `tenants` and `plans`, in order.

    Raises
    ------
    ValueError
        If there is no batch, or their names differ.
    """
    if not batches:
        raise ValueError("no batch to join")
    first = batches[0]
    names = (first.topic, first.models, first.tenants, first.plans)
    if any((b.topic, b.models, b.tenants, b.plans) != names for b in batches):
        raise ValueError("batches with different topics or names cannot be joined")
    joined: dict[str, Any] = {c: np.concatenate([getattr(b, c) for b in batches]) for c in COLUMNS}
    return replace(first, **joined)


def is_synthetic(key: str) -> bool:
    """Tell whether a key reference is the canary's, not a customer's."""
    return key.startswith(f"k{SYNTHETIC_EPOCH}-")
