"""No honest key of any kind is answered by the default policy with what cuts it off: on all recordings."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from detectors.alert import is_budget_alert
from detectors.calibration import fit_reference
from detectors.engine import Engine, EngineSettings
from sinks.policy import PolicyEngine
from sinks.policyfile import load_policy
from streams.evaluate import choose_live
from streams.samples import load_references
from streams.traces import KeyTrace, interleave, read_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from detectors.alert import Alert

TRACES = Path(__file__).parents[3] / "shared" / "traces"
CHUNK = 4096
CUTS_OFF = {"suspend", "revoke"}
MOST_ALARMED = 0.015
"""Share of the measured honest keys, one half of them or the other, at the 1 % budget."""

pytestmark = [
    pytest.mark.traces,
    pytest.mark.skipif(not TRACES.is_dir(), reason=f"no recordings at {TRACES}: nothing to measure"),
]


@pytest.fixture(scope="module")
def traces() -> list[KeyTrace]:
    return read_folder(TRACES)


def run(engine: Engine, keys: Sequence[KeyTrace]) -> list[Alert]:
    batch = interleave(keys)
    return [
        alert
        for start in range(0, len(batch), CHUNK)
        for alert in engine.process(batch.take(slice(start, start + CHUNK)))
    ]


def judge(alerts: Sequence[Alert], keys: Sequence[KeyTrace]) -> tuple[set[str], list[str]]:
    """Return the honest keys that were alerted, and of whom of them the policy would cut off."""
    honest = {trace.key_reference: str(trace.persona) for trace in keys if trace.kind == "benign"}
    policy = PolicyEngine(load_policy(None, "observe"))
    decided = [(alert, policy.decide(alert)) for alert in alerts if alert.key in honest]
    cut = [honest[alert.key] for alert, d in decided if d is not None and d.action in CUTS_OFF]
    alarms = [alert for alert in alerts if alert.subject == "key" and not is_budget_alert(alert)]
    return {alert.key for alert in alarms if alert.key in honest}, cut


@pytest.mark.parametrize("calibrates", [0, 1])
def test_no_honest_key_is_cut_off_whichever_half_calibrates(traces: list[KeyTrace], calibrates: int) -> None:
    alarmed: set[str] = set()
    measured: Counter[str] = Counter()
    for victim in sorted({trace.victim for trace in traces}):
        benign = [trace for trace in traces if trace.victim == victim and trace.kind == "benign"]
        known = [trace.batch() for trace in benign if trace.number % 2 == calibrates]
        keys = [trace for trace in benign if trace.number % 2 != calibrates]
        engine = Engine(EngineSettings(), {victim: fit_reference(victim, known)})
        alerted, cut = judge(run(engine, keys), keys)
        assert not cut
        alarmed |= alerted
        measured[victim] = len(keys)
    assert len(alarmed) <= MOST_ALARMED * measured.total()


def test_no_honest_key_is_cut_off_after_a_cold_start_among_attackers(traces: list[KeyTrace]) -> None:
    keys = choose_live(traces, [])
    _, cut = judge(run(Engine(EngineSettings(), {}, load_references()), keys), keys)
    assert not cut
