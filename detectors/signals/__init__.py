"""The signals: each one idea, one module, one contract (`detectors.base.Signal`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detectors.signals.boundary import Boundary
from detectors.signals.coverage import Coverage
from detectors.signals.familiarity import Familiarity
from detectors.signals.near_duplicate import NearDuplicate
from detectors.signals.out_of_distribution import OutOfDistribution
from detectors.signals.rate import Rate
from detectors.signals.request_parameters import RequestParameters

if TYPE_CHECKING:
    from detectors.base import Signal

ALL_SIGNALS: dict[str, type[Signal]] = {
    "out_of_distribution": OutOfDistribution,
    "near_duplicate": NearDuplicate,
    "boundary": Boundary,
    "rate": Rate,
    "coverage": Coverage,
    "familiarity": Familiarity,
    "request_parameters": RequestParameters,
}
"""Every signal by name; each is made from the `EventReference` of a model. `detectors.track` calls their
kernels in this order."""

__all__ = [
    "ALL_SIGNALS",
    "Boundary",
    "Coverage",
    "Familiarity",
    "NearDuplicate",
    "OutOfDistribution",
    "Rate",
    "RequestParameters",
]
