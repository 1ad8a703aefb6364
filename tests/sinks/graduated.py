"""Decisions of a policy that climbs, and what people do about them, for tests."""

from __future__ import annotations

from typing import Any

from alerts import KEY, START_MS, make_alert
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import strategies as st

from detectors.alert import FAMILY_TECHNIQUES, LEVELS, Alert
from sinks.policy import PolicyEngine
from sinks.policyfile import Policy, parse_policy
from sinks.records import Allow, Command, Decision, Feedback, OperatorAction
from sinks.signing import Signer

SIGNER = Signer(Ed25519PrivateKey.from_private_bytes(bytes(32)))
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
RULES = """
version: v
mode: enforce
holdout_share: 0.0
rules:
  - name: climb
    maturity: stable
    conditions: {levels: [critical]}
    action: throttle
    parameters: {requests_per_minute: 60}
    duration_s: 3600
    escalation:
      - {action: suspend, duration_s: 3600}
      - {action: revoke, duration_s: 864000}
    decay_s: 86400
  - {name: rest, maturity: stable, action: watch, duration_s: 3600}
"""
POLICY = parse_policy(RULES, "here")


def engine(policy: Policy = POLICY) -> PolicyEngine:
    return PolicyEngine(policy, SIGNER)


def decide(of: PolicyEngine, hours: float, offset: int = 0, **fields: Any) -> Decision:
    plain: dict[str, Any] = {"level": "critical", "time_ms": START_MS + round(hours * HOUR_MS)}
    decision = of.decide(make_alert(offset or round(hours * 10), **(plain | fields)))
    assert decision is not None
    return decision


def sent(decision: Decision) -> str | None:
    return None if decision.command is None else decision.command.action


def act(decision: Decision, verb: Any, hours: float = 0, **fields: Any) -> OperatorAction:
    plain: dict[str, Any] = {
        "action_id": f"{len(verb):032x}",
        "key": decision.key,
        "model": decision.model,
        "decision_id": decision.decision_id,
        "alert_id": decision.alert_id,
        "operator": "ana",
        "reason": "looked at it",
        "time_ms": START_MS + round(hours * HOUR_MS),
    }
    return OperatorAction(action=verb, **(plain | fields))


def allow(**fields: Any) -> Allow:
    plain: dict[str, Any] = {
        "allow_id": "0" * 32,
        "keys": (KEY,),
        "purpose": "evaluation",
        "owner": "ana",
        "reason": "contract 7",
        "issued_ms": START_MS + 1000,
        "expires_ms": START_MS + 30 * DAY_MS,
        "sequence": 1,
    }
    return Allow(**(plain | fields))


alerts = st.builds(
    make_alert,
    st.integers(0, 80),
    time_ms=st.integers(START_MS, START_MS + 100 * HOUR_MS),
    key=st.integers(0, 30).map(lambda number: f"k0-{number:032x}"),
    model=st.sampled_from(["digits", "chat"]),
    tenant=st.sampled_from([None, "acme", "umbrella"]),
    level=st.sampled_from(LEVELS),
    families=st.lists(
        st.sampled_from(sorted(FAMILY_TECHNIQUES.keys() - {"budget"})), min_size=1, max_size=3, unique=True
    ).map(tuple),
    query_count=st.integers(1, 500),
)
words = st.builds(
    lambda number, verdict, hours: Feedback(
        key=f"k0-{number:032x}", verdict=verdict, author="ana", reason="r", time_ms=START_MS + hours * HOUR_MS
    ),
    st.integers(0, 30),
    st.sampled_from(["honest", "guilty"]),
    st.integers(0, 100),
)


def commands(of: PolicyEngine, stream: list[Alert | Feedback], approve: bool) -> list[Command]:  # noqa: FBT001 - drawn
    """Everything that leaves, with a person who approves whatever waits."""
    decisions: list[Decision | None] = []
    for item in stream:
        if isinstance(item, Feedback):
            if item.verdict == "guilty":
                of.condemn(item)
            else:
                decisions.append(of.forgive(item))
            continue
        decision = of.decide(item)
        decisions.append(decision)
        if approve and decision is not None and decision.pending_until_ms is not None:
            hours = (decision.time_ms - START_MS) / HOUR_MS
            decisions.append(of.operate(act(decision, "approve", hours, action_id=decision.decision_id)))
    return [decision.command for decision in decisions if decision is not None and decision.command]
