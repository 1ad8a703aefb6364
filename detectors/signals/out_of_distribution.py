"""How far an input lies from what this model normally sees.

Mahalanobis distance of the sketch to the centre of its predicted class, with the pooled within-class
covariance (Lee et al., NeurIPS 2018, "A simple unified framework for detecting out-of-distribution samples";
used against extraction by FDINet, arXiv 2306.11338, and D-ADD, AAAI 2025). Stateless per key.

Blind to: queries drawn from the model's own distribution.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detectors.alert import Family
    from detectors.base import Fields, Slabs
    from detectors.batch import EventBatch
    from detectors.reference import EventReference


class OutOfDistribution:
    """Distances of input and embedding from their class, and of the input from everything.

    Scores
    ------
    input_distance, embedding_distance : Mahalanobis distance within the predicted class, in standard units.
    overall_distance : of the input around the overall mean; low values are interpolations between inputs.
    """

    name: ClassVar[str] = "out_of_distribution"
    family: ClassVar[Family] = "out_of_distribution"
    scores: ClassVar[tuple[str, ...]] = ("input_distance", "embedding_distance", "overall_distance")
    fields: ClassVar[Fields] = {}

    def __init__(self, reference: EventReference) -> None:
        """Compare with this reference."""
        self._reference = reference

    def score(self, batch: EventBatch, slots: NDArray[np.int64], slabs: Slabs) -> NDArray[np.float32]:  # noqa: ARG002 - the contract; this signal keeps no state
        """Score each row: float32 (n, 3); NaN where the sketch is absent."""
        return np.stack(
            distances(self._reference, batch.input_sketch, batch.embedding_sketch, batch.predicted_class),
            axis=1,
        )


def distances(
    reference: EventReference,
    inputs: NDArray[np.float32],
    embeddings: NDArray[np.float32],
    predicted: NDArray[np.int32],
) -> list[NDArray[np.float32]]:
    """Return the three scores of n events, (n,) each: sketches (n, 32), predicted classes (n,)."""
    row = class_rows(predicted, reference.classes)
    return [
        _distance(inputs, reference.input_centres[row], reference.input_whitening),
        _distance(embeddings, reference.embedding_centres[row], reference.embedding_whitening),
        _distance(inputs, reference.input_centres[-1], reference.overall_whitening),
    ]


def class_rows(predicted: NDArray[np.int32], classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find each class's row among the centres; classes without a centre get the last row."""
    if not len(classes):
        return np.zeros(len(predicted), np.int64)
    row = np.minimum(np.searchsorted(classes, predicted), len(classes) - 1)
    return np.where(classes[row] == predicted, row, len(classes))


def _distance(
    sketch: NDArray[np.float32], centre: NDArray[np.float32], whitening: NDArray[np.float32]
) -> NDArray[np.float32]:
    whitened = (sketch - centre) @ whitening
    distance: NDArray[np.float32] = np.sqrt(np.einsum("ij,ij->i", whitened, whitened))
    return distance
