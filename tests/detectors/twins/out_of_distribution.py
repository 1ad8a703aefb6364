"""Plain-Python twin of `detectors.signals.out_of_distribution`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detectors.base import Array
    from detectors.batch import EventBatch
    from detectors.reference import EventReference


def score(batch: EventBatch, keys: list[int], reference: EventReference) -> list[list[float]]:  # noqa: ARG001 - twins share one form
    """Return Mahalanobis distances: input and embedding within the class, input overall."""
    rows = {int(label): row for row, label in enumerate(reference.classes)}
    out = []
    for event in range(len(batch)):
        row = rows.get(int(batch.predicted_class[event]), len(rows))
        inputs, embedding = batch.input_sketch[event], batch.embedding_sketch[event]
        out.append(
            [
                distance(inputs, reference.input_centres[row], reference.input_whitening),
                distance(embedding, reference.embedding_centres[row], reference.embedding_whitening),
                distance(inputs, reference.input_centres[-1], reference.overall_whitening),
            ]
        )
    return out


def distance(sketch: Array, centre: Array, whitening: Array) -> float:
    """Return |(sketch - centre) whitening|."""
    apart = [float(a) - float(b) for a, b in zip(sketch, centre, strict=True)]
    whitened = [sum(a * float(w) for a, w in zip(apart, column, strict=True)) for column in whitening.T]
    return math.sqrt(sum(value * value for value in whitened))
