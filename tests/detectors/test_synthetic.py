"""The canary's keys are watched like others, and change nothing for them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from test_engine import reference
from traffic import MODEL, far_away, honest, interleave

from detectors.batch import SYNTHETIC_EPOCH, concatenate, is_synthetic
from detectors.engine import Engine, EngineSettings
from detectors.learner import Learner

if TYPE_CHECKING:
    from detectors.batch import EventBatch


def synthetic(number: int) -> EventBatch:
    batch = far_away(number)
    return replace(batch, key_epoch=np.full(len(batch), SYNTHETIC_EPOCH, np.uint16))


def test_a_synthetic_attack_is_found_and_is_no_hypothesis() -> None:
    engine = Engine(EngineSettings(hot_keys=1000), {MODEL: reference()})
    alerts = engine.process(synthetic(1))
    assert alerts[-1].level == "critical"
    assert all(is_synthetic(alert.key) and not alert.is_discovery for alert in alerts)
    assert engine._discovery.enter() == Engine(EngineSettings(), {})._discovery.enter()


def test_nothing_is_learned_from_synthetic_keys_and_none_is_linked() -> None:
    real = interleave([honest(number) for number in range(60)])
    attacks = concatenate([synthetic(number) for number in range(30)])
    with_attacks, without = (Engine(EngineSettings(hot_keys=1000), {}) for _ in range(2))
    cut = len(real) // 3
    for batch in (real.take(slice(cut)), attacks, real.take(slice(cut, None))):
        alerts = with_attacks.process(batch)
        assert not any(alert.subject == "campaign" and is_synthetic(alert.key) for alert in alerts)
    without.process(real.take(slice(cut)))
    without.process(real.take(slice(cut, None)))
    one, other = with_attacks._watches[0], without._watches[0]
    assert isinstance(one, Learner)
    assert isinstance(other, Learner)
    assert one.fits == other.fits > 0
    for name, array in other.dump()[0].items():
        np.testing.assert_array_equal(one.dump()[0][name], array, err_msg=name)
