"""How far an input lies from what this model normally sees.

Mahalanobis distance of the sketch to the centre of its predicted class, with the pooled within-class
covariance (Lee et al., NeurIPS 2018, "A simple unified framework for detecting out-of-distribution samples";
used against extraction by FDINet, arXiv 2306.11338, and D-ADD, AAAI 2025). Stateless per key.

Blind to: queries drawn from the model's own distribution.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from detectors.batch import SKETCH_SIZE
from detectors.kernelcache import njit
from detectors.lanes import LANES, TOGETHER, load_lanes, project

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detectors.alert import Family
    from detectors.base import Array, Events, Fields, Slabs
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
    counts_all: ClassVar[bool] = False
    scores: ClassVar[tuple[str, ...]] = ("input_distance", "embedding_distance", "overall_distance")
    fields: ClassVar[Fields] = {}

    def __init__(self, reference: EventReference) -> None:
        """Compare with this reference."""
        self._known = _known(reference)

    @property
    def kernel(self) -> Any:
        """Score rows (`score_distances`)."""
        return score_distances

    def arguments(self, events: Events, slots: NDArray[np.int64], slabs: Slabs) -> tuple[Any, ...]:  # noqa: ARG002 - the contract; this signal keeps no state
        """Return the sketches, their classes, and what they are compared with."""
        return events.rows, events.sketch, events.embedding, events.predicted, *self._known


def distances(
    reference: EventReference,
    inputs: NDArray[np.float32],
    embeddings: NDArray[np.float32],
    predicted: NDArray[np.int32],
) -> NDArray[np.float32]:
    """Return the three scores of n events, (n, 3): sketches (n, 32), predicted classes (n,)."""
    out, rows = np.empty((len(inputs), 3), np.float32), np.arange(len(inputs))
    sketches = np.ascontiguousarray(inputs), np.ascontiguousarray(embeddings)
    score_distances(out, rows, *sketches, predicted, *_known(reference))
    return out


def _known(reference: EventReference) -> tuple[Array, ...]:
    """Return what of a reference distances are measured with."""
    return (
        reference.classes,
        reference.input_centres,
        reference.input_whitening,
        reference.embedding_centres,
        reference.embedding_whitening,
        reference.overall_whitening,
    )


@njit(cache=True, nogil=True)
def score_distances(
    out: Array, rows: Array, inputs: Array, embeddings: Array, predicted: Array, classes: Array,
    input_centres: Array, input_whitening: Array,
    embedding_centres: Array, embedding_whitening: Array, overall_whitening: Array,
) -> None:  # fmt: skip
    """Write the three scores of each row; NaN where the sketch is absent."""
    own, last = class_rows(predicted[rows], classes), np.full(len(rows), len(classes))
    _mahalanobis(inputs, rows, own, input_centres, input_whitening, out[:, 0])
    _mahalanobis(embeddings, rows, own, embedding_centres, embedding_whitening, out[:, 1])
    _mahalanobis(inputs, rows, last, input_centres, overall_whitening, out[:, 2])


@njit(cache=True, nogil=True)
def class_rows(predicted: Array, classes: Array) -> Array:
    """Find each class's row among the centres, int64 (n,); classes without a centre get the last row."""
    out = np.empty(len(predicted), np.int64)
    for i in range(len(predicted)):
        place = np.searchsorted(classes, predicted[i])
        is_known = place < len(classes) and classes[place] == predicted[i]
        out[i] = place if is_known else len(classes)
    return out


@njit(cache=True, nogil=True)
def _mahalanobis(
    sketch: Array, rows: Array, centre_of: Array, centres: Array, whitening: Array, out: Array
) -> None:
    """Write |(sketch - centre) W| of each row, for W lower triangular."""
    apart = np.zeros((SKETCH_SIZE, LANES), np.float32)
    whitened, total = np.empty((TOGETHER, LANES), np.float32), np.empty(LANES, np.float32)
    for start in range(0, len(rows), LANES):
        count = load_lanes(sketch, rows, centre_of, centres, start, apart)
        total[:] = 0
        for k in range(0, SKETCH_SIZE, TOGETHER):
            project(apart, 0, whitening, k, k, count, whitened)
            for column in whitened:
                for i in range(count):
                    total[i] += column[i] * column[i]
        for i in range(count):
            out[start + i] = np.sqrt(total[i])
