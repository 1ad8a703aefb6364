"""Attacks and customers of a victim that nothing was tuned on: `simulated`."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
from simulated import (
    MODEL,
    Victim,
    active_boundary,
    antithetic,
    data_free,
    finite_differences,
    gaussian,
    honest,
    hop_skip_jump,
    jacobian,
    mixup,
)

from detectors.calibration import fit_reference
from detectors.engine import Engine, EngineSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from detectors.batch import EventBatch
    from detectors.reference import ModelReference

VICTIM = Victim()


@cache
def reference() -> ModelReference:
    return fit_reference(MODEL, [VICTIM.events(n, honest(VICTIM, n)) for n in range(80)])


def first_alert(batch: EventBatch) -> int | None:
    alerts = Engine(EngineSettings(), {MODEL: reference()}).process(batch)
    return alerts[0].query_count if alerts else None


@pytest.mark.parametrize(
    ("attack", "most"),
    [
        (gaussian, 20),
        (data_free, 20),
        (mixup, 50),
        (hop_skip_jump, 80),
        (antithetic, 150),
        (finite_differences, 60),
        (active_boundary, 160),  # a hundred of them ordinary
        (jacobian, 120),  # sixty of them ordinary
    ],
)
def test_an_attack_that_was_never_seen_is_found(
    attack: Callable[[Victim, np.random.Generator], np.ndarray], most: int
) -> None:
    found = first_alert(VICTIM.events(5000, attack(VICTIM, np.random.default_rng(2))))
    assert found is not None
    assert found <= most


def test_honest_customers_of_all_kinds_are_left_alone() -> None:
    alarmed = [n for n in range(1000, 1060) if first_alert(VICTIM.events(n, honest(VICTIM, n))) is not None]
    assert len(alarmed) <= 2, alarmed
