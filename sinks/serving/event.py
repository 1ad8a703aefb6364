"""From a served call to a record on the events topic, without the raw input or the raw key.

    sketcher = Sketcher(input_size=784)
    event = make_event(
        time_ms=now_ms, key=key_reference(api_key, secret), model="digits",
        input_sketch=sketcher.sketch(pixels), probabilities=answer,
    )
    emit(event, producer.send, topic="modelwarden.events")

Called by the provider's own process on the path of a request: nothing here blocks or does I/O but `send`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import numpy as np

from sinks.records import ServingEvent
from sinks.serving.sketch import encode_sketch

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_WIRE_NAMES = tuple(field.encode_name for field in msgspec.structs.fields(ServingEvent))
_encoder = msgspec.json.Encoder()


class Send(Protocol):
    """What `emit` needs of a producer; kafka-python's and `streams.bus`'s `send` both fit."""

    def __call__(self, topic: str, value: bytes, *, key: bytes) -> Any:
        """Append a record, without waiting for it to be stored."""


def confidences(probabilities: NDArray[Any]) -> list[dict[str, Any] | None]:
    """Summarise answers' class probabilities: predicted class, top-1, margin, entropy in nats.

    Parameters
    ----------
    probabilities : array (n, n_classes)
        Not negative, at least one of an answer above zero; each answer is scaled to sum to 1.

    Returns
    -------
    list of dict or None
        None for an answer that is not of that kind.
    """
    p = np.asarray(probabilities, np.float64)
    if not p.size:
        return [None] * len(p)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        total = p.sum(axis=1)
        is_fine = np.isfinite(total) & (total > 0) & (p.min(axis=1) >= 0)
        p = p / total[:, None]
        entropy = -(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=1)
    best = p.argmax(axis=1)
    top1 = p.max(axis=1)
    second = np.partition(p, -2, axis=1)[:, -2] if p.shape[1] > 1 else np.zeros(len(p))
    columns = (is_fine, best, top1, top1 - second, np.maximum(entropy, 0.0))
    return [
        {"predicted_class": label, "top1": top, "margin": margin, "entropy_nats": nats} if fine else None
        for fine, label, top, margin, nats in zip(*(column.tolist() for column in columns), strict=True)
    ]


def confidence(probabilities: ArrayLike) -> dict[str, Any]:
    """Summarise one answer's class probabilities (n_classes,), as `confidences` does.

    Raises
    ------
    ValueError
        If they are not numbers of that kind.
    """
    [summary] = confidences(np.asarray(probabilities, np.float64).reshape(1, -1))
    if summary is None:
        raise ValueError("probabilities must be finite, not negative and not all zero")
    return summary


def make_event(  # noqa: PLR0913 - a call has this many sides
    *,
    time_ms: int,
    key: str,
    model: str,
    input_sketch: NDArray[np.floating] | None = None,
    embedding_sketch: NDArray[np.floating] | None = None,
    probabilities: ArrayLike | None = None,
    **fields: Any,
) -> ServingEvent:
    """Make an event.

    Parameters
    ----------
    time_ms : int
        When the call was served, milliseconds since 1970.
    key : str
        Key reference, from `sinks.serving.keyref.key_reference`.
    model : str
        Name of the served model.
    input_sketch, embedding_sketch : array (32,), optional
        From `sinks.serving.sketch.Sketcher`.
    probabilities : array_like (n_classes,), optional
        The answer's class probabilities; only their summary is kept.
    **fields
        Any other field of `sinks.records.ServingEvent`: tenant, plan, prompt_tokens and so on.

    Raises
    ------
    ValueError
        If the probabilities or a sketch are not finite, or a sketch has another size.
    """
    summary = {} if probabilities is None else confidence(probabilities)
    return ServingEvent(
        time_ms=time_ms,
        key=key,
        model=model,
        input_sketch=None if input_sketch is None else encode_sketch(input_sketch),
        embedding_sketch=None if embedding_sketch is None else encode_sketch(embedding_sketch),
        **(summary | fields),
    )


def encode_event(event: ServingEvent) -> bytes:
    """Write an event as it stands on the topic: JSON, absent fields left out."""
    values = msgspec.structs.astuple(event)
    return _encoder.encode({n: v for n, v in zip(_WIRE_NAMES, values, strict=True) if v is not None})


def emit(event: ServingEvent, send: Send, topic: str) -> None:
    """Send an event, keyed by its key reference so that one key's events stay in order."""
    send(topic, encode_event(event), key=event.key.encode())
