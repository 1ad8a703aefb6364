"""Synthetic traffic for the detector tests: honest keys that differ, and two plain attacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from detectors.batch import EventBatch, build_batch, concatenate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MODEL = "toy"


def key_batch(
    number: int,
    inputs: NDArray[Any],
    *,
    margin: NDArray[np.float32] | None = None,
    start_ms: int = 0,
) -> EventBatch:
    """One key's events, a second apart; the class is the sign pattern of two coordinates."""
    count = len(inputs)
    inputs = inputs.astype(np.float32)
    label = (inputs[:, 0] > 0).astype(np.int32) + 2 * (inputs[:, 1] > 0).astype(np.int32)
    margin = np.full(count, 0.9, np.float32) if margin is None else margin
    return build_batch(
        key=np.tile(np.array([[number, number + 1]], np.uint64), (count, 1)),
        time_ms=start_ms + 1000 * np.arange(count, dtype=np.int64),
        model=np.zeros(count, np.int32),
        models=(MODEL,),
        topic="events",
        offset=np.arange(count, dtype=np.int64),
        input_sketch=inputs,
        embedding_sketch=inputs * np.float32(0.5),
        predicted_class=label,
        margin=margin,
    )


def honest(number: int, count: int = 120) -> EventBatch:
    """A key with its own mean and its own share of hard inputs."""
    rng = np.random.default_rng([0, number])
    inputs = rng.normal(0.3 * rng.standard_normal(32), 1, (count, 32))
    margin = rng.beta(8, 1 + rng.random(), count).astype(np.float32)
    return key_batch(number, inputs, margin=margin, start_ms=int(rng.integers(0, 100_000)))


def far_away(number: int, count: int = 60) -> EventBatch:
    """Inputs unlike anything honest."""
    rng = np.random.default_rng([1, number])
    return key_batch(number, 6 * rng.standard_normal((count, 32)))


def augmentation(number: int, seeds: int = 40, count: int = 160) -> EventBatch:
    """Honest seeds, then small changes of them, round after round."""
    rng = np.random.default_rng([2, number])
    inputs = [rng.standard_normal(32) for _ in range(seeds)]
    while len(inputs) < count:
        inputs.append(inputs[len(inputs) - seeds] + 0.15 * rng.standard_normal(32))
    return key_batch(number, np.array(inputs))


def interleave(batches: Sequence[EventBatch]) -> EventBatch:
    """Join by time, and number the offsets in that order."""
    joined = concatenate(batches)
    joined = joined.take(np.argsort(joined.time_ms, kind="stable"))
    names = ("key", "time_ms", "model", "input_sketch", "embedding_sketch", "predicted_class", "margin")
    return build_batch(
        **{name: getattr(joined, name) for name in names},
        models=joined.models,
        topic=joined.topic,
        offset=np.arange(len(joined), dtype=np.int64),
    )
