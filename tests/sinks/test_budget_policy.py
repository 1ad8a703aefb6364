"""A budget alert says what a key holds, not that it is odd: no rule acts on it by accident."""

from __future__ import annotations

import pytest
from alerts import make_alert

from sinks.policy import PolicyEngine
from sinks.policyfile import load_policy, parse_policy

BUDGET = make_alert(level="notice", families=("budget",))

GENERAL = """
version: strict
rules:
  - name: everything
    action: throttle
    parameters: {requests_per_minute: 1}
    duration_s: 60
"""
NAMED = GENERAL.replace("    action", "    conditions: {families: [budget]}\n    action")


def test_the_default_policy_watches_at_most() -> None:
    decision = PolicyEngine(load_policy(None)).decide(BUDGET)
    assert decision is not None
    assert (decision.rule, decision.action) == ("budget-watch", "watch")


@pytest.mark.parametrize(("text", "action"), [(GENERAL, None), (NAMED, "throttle")])
def test_only_a_rule_that_names_budgets_acts_on_one(text: str, action: str | None) -> None:
    decision = PolicyEngine(parse_policy(text, "strict.yaml")).decide(BUDGET)
    assert (decision and decision.action) == action


def test_a_finding_beside_the_budget_is_a_finding() -> None:
    alert = make_alert(level="notice", families=("boundary", "budget"))
    decision = PolicyEngine(parse_policy(GENERAL, "strict.yaml")).decide(alert)
    assert decision is not None
    assert decision.action == "throttle"


def test_a_rule_may_ask_for_discoveries() -> None:
    text = GENERAL.replace("    action", "    conditions: {only_discoveries: true}\n    action")
    engine = PolicyEngine(parse_policy(text, "sure.yaml"))
    assert engine.decide(make_alert(level="critical")) is None
    assert engine.decide(make_alert(level="critical", is_discovery=True)) is not None
