"""The breaker: never more than configured, one page, shares that sum to the whole, and a way back."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from alerts import START_MS, make_alert
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from sinks.breaker import Breaker, BreakerLimits
from sinks.policy import PolicyEngine
from sinks.policyfile import Policy, parse_policy
from sinks.records import Decision, Feedback, Notice
from sinks.signing import Signer

SIGNER = Signer(Ed25519PrivateKey.from_private_bytes(bytes(32)))
HOUR_MS = 3_600_000
POLICY = parse_policy(
    """
    version: v
    mode: enforce
    holdout_share: 0.0
    breaker: {max_keys: 100, max_tenants: 1000}
    rules: [{name: all, maturity: stable, action: revoke, duration_s: 86400}]
    """,
    "here",
)
AGREEING: dict[str, Any] = {"level": "critical", "families": ("boundary", "rate")}


def policy(**breaker: Any) -> Policy:
    return msgspec.structs.replace(POLICY, breaker=msgspec.structs.replace(POLICY.breaker, **breaker))


def key(number: int) -> str:
    return f"k0-{number:032x}"


def revoked(decisions: list[Decision | None]) -> list[str]:
    return [
        d.key for d in decisions if d is not None and d.command is not None and d.command.action == "revoke"
    ]


def flood(engine: PolicyEngine, count: int, start: int = 0, **fields: Any) -> list[Decision | None]:
    return [
        engine.decide(make_alert(at, key=key(at), **(AGREEING | fields)))
        for at in range(start, start + count)
    ]


def pages(notices: list[Notice]) -> list[Notice]:
    return [notice for notice in notices if notice.severity == "page"]


def test_ten_thousand_guilty_verdicts_at_once_revoke_the_configured_number_and_page_once() -> None:
    engine = PolicyEngine(POLICY, SIGNER)
    decisions = flood(engine, 10_000)
    assert len(revoked(decisions)) == 100
    (page,) = pages(engine.take_notices())
    assert (page.kind, page.cause) == ("breaker_tripped", "keys")
    assert engine.is_breaker_open
    withheld = [d.withheld for d in decisions if d is not None and d.command is None]
    assert len(withheld) == 9_900
    assert all("the breaker has tripped" in str(why) for why in withheld)


def test_eight_partitions_together_revoke_no_more_than_one_would() -> None:
    engines = [PolicyEngine(POLICY, SIGNER, partition=p, partitions=8) for p in range(8)]
    total = sum(len(revoked(flood(engine, 1_250, start=1_250 * p))) for p, engine in enumerate(engines))
    assert total == 100


@given(st.integers(0, 500), st.integers(1, 64))
def test_shares_sum_to_the_limit(limit: int, partitions: int) -> None:
    shares = [Breaker(BreakerLimits(), p, partitions).share_of(limit) for p in range(partitions)]
    assert sum(shares) == limit
    assert max(shares) - min(shares) <= 1


def test_tenants_and_the_share_of_calls_trip_it_too() -> None:
    engine = PolicyEngine(policy(max_tenants=3), SIGNER)
    for at in range(9):
        engine.decide(make_alert(at, key=key(at), tenant=f"tenant-{at % 4}", **AGREEING))
    assert [page.cause for page in pages(engine.take_notices())] == ["tenants"]

    engine = PolicyEngine(policy(min_calls=1000, max_traffic_ratio=0.1), SIGNER)
    engine.count_calls({START_MS // 60_000: 1000})
    small = engine.decide(make_alert(0, key=key(0), query_count=60, **AGREEING))
    large = engine.decide(make_alert(1, key=key(1), query_count=60, **AGREEING))
    assert revoked([small, large]) == [key(0)]
    assert [page.cause for page in pages(engine.take_notices())] == ["traffic_share"]


def test_a_key_that_is_suspended_and_then_revoked_counts_once() -> None:
    breaker = Breaker(BreakerLimits(max_keys=1))
    assert breaker.admit("a", None, 1, START_MS) is None
    assert breaker.admit("a", None, 1, START_MS + 1) is None
    assert breaker.admit("b", None, 1, START_MS + 2) == "keys"


def test_the_window_moves_on_but_a_tripped_breaker_stays_until_it_is_reset() -> None:
    engine = PolicyEngine(policy(max_keys=2), SIGNER)
    assert len(revoked(flood(engine, 2))) == 2
    assert len(revoked(flood(engine, 2, start=10, time_ms=START_MS + HOUR_MS + 1))) == 2, "another hour"
    assert revoked(flood(engine, 1, start=20, time_ms=START_MS + HOUR_MS + 2)) == []
    assert revoked(flood(engine, 1, start=30, time_ms=START_MS + 99 * HOUR_MS)) == [], "not by itself"
    engine.reset_breaker(1)
    assert [notice.kind for notice in engine.take_notices()] == ["breaker_tripped", "breaker_closed"]
    assert len(revoked(flood(engine, 1, start=40, time_ms=START_MS + 99 * HOUR_MS))) == 1
    engine.reset_breaker(1)
    assert engine.take_notices() == [], "the same reset, read again"


def test_it_may_close_by_itself_after_a_set_time() -> None:
    engine = PolicyEngine(policy(max_keys=0, reset_s=60), SIGNER)
    assert revoked(flood(engine, 1)) == []
    engine.set_policy(policy(max_keys=9, reset_s=60))
    assert revoked(flood(engine, 1, start=1, time_ms=START_MS + 59_999)) == []
    assert len(revoked(flood(engine, 1, start=2, time_ms=START_MS + 60_000))) == 1
    assert [notice.kind for notice in engine.take_notices()] == ["breaker_tripped", "breaker_closed"]


def test_a_restore_leaves_though_the_breaker_is_open() -> None:
    engine = PolicyEngine(policy(max_keys=1), SIGNER)
    flood(engine, 2)
    word = Feedback(key=key(0), verdict="honest", author="ana", reason="theirs", time_ms=START_MS + 1)
    restored = engine.forgive(word)
    assert engine.is_breaker_open
    assert restored.command is not None
    assert restored.command.action == "restore"


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 4 * HOUR_MS)), max_size=60), st.integers(0, 60))
def test_state_survives_a_restart_and_no_hour_has_more_than_the_limit(
    plan: list[tuple[int, int]], cut: int
) -> None:
    plan = sorted(plan, key=lambda pair: pair[1])
    chosen = policy(max_keys=5, reset_s=600)
    whole, first, second = (PolicyEngine(chosen, SIGNER) for _ in range(3))

    def run(engine: PolicyEngine, start: int, stop: int) -> list[Decision | None]:
        return [
            engine.decide(make_alert(at, key=key(number), time_ms=START_MS + time, **AGREEING))
            for at, (number, time) in list(enumerate(plan))[start:stop]
        ]

    expected = run(whole, 0, len(plan))
    got = run(first, 0, cut)
    second.restore(first.dump())
    got += run(second, cut, len(plan))
    assert got == expected
    assert second.dump() == whole.dump()


@pytest.mark.parametrize("limit", [0, 1, 7])
def test_at_most_the_limit_leaves_between_trips(limit: int) -> None:
    engine = PolicyEngine(policy(max_keys=limit), SIGNER)
    assert len(revoked(flood(engine, 500))) == limit
