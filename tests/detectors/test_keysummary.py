"""What it would take for a key to be alerted is what alerts it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from traffic import MODEL, far_away, honest

from detectors.batch import format_key_reference
from detectors.calibration import fit_reference
from detectors.engine import Engine, EngineSettings
from detectors.keylevel import tail
from detectors.keysummary import notice_z
from detectors.statistics import GROUP_OF, STATISTICS
from detectors.watch import THRESHOLDS

if TYPE_CHECKING:
    from detectors.reference import ModelReference


@cache
def reference() -> ModelReference:
    return fit_reference(MODEL, [honest(number) for number in range(60)])


def test_a_statistic_at_its_notice_reaches_the_threshold_and_no_sooner() -> None:
    key, count = reference().key, len(STATISTICS)
    for s, z in enumerate(notice_z(key)):
        group = count + GROUP_OF[s]
        for apart, reached in ((-0.05, False), (0.05, True)):
            own = tail(float(z + apart), key.tail_knots[s], key.tail_surprise[s], float(key.tail_slope[s]))
            found = tail(own, key.tail_knots[group], key.tail_surprise[group], float(key.tail_slope[group]))
            assert (found >= THRESHOLDS[0]) == reached


def test_a_quiet_key_is_short_of_a_notice_and_an_attack_is_beyond() -> None:
    engine = Engine(EngineSettings(), {MODEL: reference()})
    engine.process(honest(700))
    engine.process(far_away(900))
    quiet = engine.summary(format_key_reference(0, 700, 701), MODEL)
    loud = engine.summary(format_key_reference(0, 900, 901), MODEL)
    assert quiet is not None
    assert loud is not None
    assert quiet.level is None
    assert all(one.share < 1 for one in quiet.nearest)
    assert [one.share for one in quiet.nearest] == sorted((one.share for one in quiet.nearest), reverse=True)
    assert loud.level is not None
    assert loud.nearest[0].share > 1
    assert loud.nearest[0].name.startswith("strange")
    assert np.sign(loud.nearest[0].observed - loud.nearest[0].needed) == 1


def test_a_key_of_one_query_has_nothing_but_what_one_query_shows() -> None:
    engine = Engine(EngineSettings(), {MODEL: reference()})
    engine.process(honest(701, count=1))
    summary = engine.summary(format_key_reference(0, 701, 702), MODEL)
    assert summary is not None
    assert all(one.name.endswith("_1") for one in summary.nearest)
