"""Plain-Python twin of `detectors.signals.boundary`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detectors.batch import EventBatch
    from detectors.reference import EventReference


def score(batch: EventBatch, keys: list[int], reference: EventReference) -> list[list[float]]:  # noqa: ARG001 - twins share one form
    """Return one minus the margin."""
    return [[1.0 - margin] for margin in batch.margin.tolist()]
