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


def confidence(probabilities: ArrayLike) -> dict[str, Any]:
    """Summarise an answer's class probabilities: predicted class, top-1, margin, entropy in nats.

    Parameters
    ----------
    probabilities : array_like (n_classes,)
        Not negative, at least one above zero; scaled to sum to 1.

    Raises
    ------
    ValueError
        If they are not numbers of that kind.
    """
    p = np.asarray(probabilities, np.float64).ravel()
    total = p.sum()
    if p.size == 0 or not np.isfinite(total) or total <= 0 or p.min() < 0:
        raise ValueError("probabilities must be finite, not negative and not all zero")
    p = p / total
    best = int(p.argmax())
    second = float(np.partition(p, -2)[-2]) if p.size > 1 else 0.0
    positive = p[p > 0]
    entropy = float(-(positive * np.log(positive)).sum())
    return {
        "predicted_class": best,
        "top1": float(p[best]),
        "margin": float(p[best]) - second,
        "entropy_nats": max(entropy, 0.0),
    }


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
