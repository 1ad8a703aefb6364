"""How close an answer is to the decision boundary.

A counter of queries in the margin is the watermarking detector of Quiring, Arp and Rieck ("Forgotten
siblings", EuroS&P 2018) turned to extraction. Stateless per key; what makes it evidence is how often a key's
own queries are hard, compared with other keys (`detectors.statistics`).

Blind to: Jacobian augmentation of confident seeds, generators that maximise confidence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from detectors.kernelcache import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detectors.alert import Family
    from detectors.base import Array, Events, Fields, Slabs
    from detectors.reference import EventReference


class Boundary:
    """One minus the margin between the two likeliest classes.

    Scores
    ------
    hardness : 0 for a sure answer, 1 on the boundary.
    """

    name: ClassVar[str] = "boundary"
    family: ClassVar[Family] = "boundary"
    counts_all: ClassVar[bool] = False
    scores: ClassVar[tuple[str, ...]] = ("hardness",)
    fields: ClassVar[Fields] = {}

    def __init__(self, reference: EventReference) -> None:
        """Take the reference as every signal does; hardness needs none of it."""

    @property
    def kernel(self) -> Any:
        """Score rows (`score_margins`)."""
        return score_margins

    def arguments(self, events: Events, slots: NDArray[np.int64], slabs: Slabs) -> tuple[Any, ...]:  # noqa: ARG002 - the contract; this signal keeps no state
        """Return the rows and the margins."""
        return events.rows, events.margin


@njit(cache=True, nogil=True)
def score_margins(out: Array, rows: Array, margin: Array) -> None:
    """Score each row; NaN where the event gave no margin."""
    for i in range(len(rows)):
        out[i, 0] = np.float32(1) - margin[rows[i]]
