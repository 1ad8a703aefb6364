"""The policy engine: nothing leaves unless the mode lets it, nothing is sent twice, people decide."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from alerts import KEY, START_MS, make_alert
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.alert import FAMILY_TECHNIQUES, LEVELS, Alert
from sinks.errors import PolicyError
from sinks.policy import WAITS, PolicyEngine, PolicyStateError
from sinks.policyfile import Policy, load_policy, parse_policy
from sinks.records import Decision, Feedback, Mode
from sinks.signing import Signer, verify

HOUR_MS = 3_600_000
SIGNER = Signer(Ed25519PrivateKey.from_private_bytes(bytes(32)))


def engine(mode: Any = "enforce", policy: Policy | None = None) -> PolicyEngine:
    chosen = load_policy(None) if policy is None else policy
    return PolicyEngine(msgspec.structs.replace(chosen, mode=mode), SIGNER)


def decide(of: PolicyEngine, offset: int = 0, **fields: Any) -> Decision:
    alert = make_alert(offset, **fields)
    decision = of.decide(alert)
    assert decision is not None
    return decision


def honest(**fields: Any) -> Feedback:
    plain: dict[str, Any] = {
        "key": KEY,
        "verdict": "honest",
        "author": "ana",
        "reason": "their load test",
        "time_ms": START_MS + 1,
    }
    return Feedback(**(plain | fields))


alerts = st.builds(
    make_alert,
    st.integers(0, 50),
    time_ms=st.integers(START_MS, START_MS + 100 * HOUR_MS),
    key=st.integers(0, 5).map(lambda digit: "k0-" + str(digit) * 32),
    model=st.sampled_from(["digits", "chat"]),
    level=st.sampled_from(LEVELS),
    families=st.lists(
        st.sampled_from(sorted(FAMILY_TECHNIQUES.keys() - {"budget"})), min_size=1, max_size=3, unique=True
    ).map(tuple),
    query_count=st.integers(1, 500),
)
modes = st.sampled_from(["observe", "canary", "enforce"])


@given(st.lists(alerts, max_size=30), modes, modes, st.floats(0, 1))
@settings(max_examples=150, deadline=None)
def test_a_command_leaves_only_where_the_mode_lets_it(
    stream: list[Alert], mode: Any, rule_mode: Any, share: float
) -> None:
    policy = load_policy(None)
    rules = tuple(msgspec.structs.replace(rule, mode=rule_mode) for rule in policy.rules)
    engine_ = engine(mode, msgspec.structs.replace(policy, rules=rules, canary_share=share))
    for alert in stream:
        decision = engine_.decide(alert)
        assert decision is not None
        if decision.pending_until_ms is not None:  # a revocation waits, and may suspend the key meanwhile
            assert decision.action == "revoke"
            assert decision.withheld is not None
            assert decision.withheld.startswith(WAITS)
            assert decision.command is None or decision.command.action == "suspend"
        else:
            assert (decision.command is None) == (decision.withheld is not None)
        if decision.command is not None:
            assert "observe" not in {mode, rule_mode}
            assert decision.mode in {"canary", "enforce"}
            verify(decision.command, {SIGNER.key_id: SIGNER.public_key})
            assert decision.command.expires_ms > alert.time_ms
    if mode == "observe":
        assert engine_.forgive(honest()).command is None


@given(st.lists(alerts, max_size=30), st.integers(0, 30), modes)
@settings(max_examples=100, deadline=None)
def test_a_restored_engine_decides_as_the_first_would(stream: list[Alert], cut: int, mode: Any) -> None:
    whole, first, second = engine(mode), engine(mode), engine(mode)
    expected = [whole.decide(alert) for alert in stream]
    got = [first.decide(alert) for alert in stream[:cut]]
    second.restore(first.dump())
    got += [second.decide(alert) for alert in stream[cut:]]
    assert got == expected
    assert second.dump() == whole.dump()


def test_levels_rise_from_watch_to_suspend_with_falling_sequence_never() -> None:
    of = engine()
    commands = [decide(of, at, level=level).command for at, level in enumerate(LEVELS)]
    assert [command.action for command in commands if command] == ["watch", "throttle", "suspend"]
    assert [command.sequence for command in commands if command] == [START_MS, START_MS + 1, START_MS + 2]
    throttle = commands[1]
    assert throttle is not None
    assert throttle.parameters == {"requests_per_minute": 60.0}
    assert throttle.expires_ms == START_MS + HOUR_MS
    assert throttle.reason == "The key asks near the boundary."


def test_ids_come_from_the_alert_alone() -> None:
    one, other = decide(engine()), decide(engine())
    assert one == other
    assert one.command is not None
    assert other.command is not None
    assert one.command.command_id == other.command.command_id
    assert decide(engine(), 1).decision_id != one.decision_id


def test_no_weaker_or_equal_command_while_one_stands() -> None:
    of = engine()
    decide(of, 0, level="warning")
    assert decide(of, 1, level="warning").withheld == "throttle stands for this key and model already"
    assert decide(of, 2, level="notice").command is None
    assert decide(of, 3, level="warning", model="chat").command is not None
    assert decide(of, 4, level="warning", key="k0-" + "b" * 32).command is not None
    assert decide(of, 5, level="critical").command is not None
    assert decide(of, 6, level="warning", time_ms=START_MS + HOUR_MS).command is not None


def test_what_was_only_observed_does_not_hold_back_a_command() -> None:
    of = engine("observe")
    assert decide(of, 0).withheld == "mode observe"
    assert decide(of, 1).withheld == "throttle stands for this key and model already"
    of.set_policy(msgspec.structs.replace(of.policy, mode="enforce"))
    assert decide(of, 2).command is not None


def test_enforcing_without_a_signing_key_is_refused_at_once() -> None:
    observing = PolicyEngine(load_policy(None))
    canary_and_enforce: tuple[Mode, ...] = ("canary", "enforce")
    for mode in canary_and_enforce:
        with pytest.raises(PolicyError, match=r"no signing key\. Set signing_key_file"):
            PolicyEngine(load_policy(None, mode=mode))
        with pytest.raises(PolicyError):
            observing.set_policy(load_policy(None, mode=mode))
    assert observing.policy.mode == "observe"


def test_canary_takes_its_share_of_keys_and_keeps_them_as_it_grows() -> None:
    keys = [f"k0-{number:032x}" for number in range(2000)]

    def chosen(share: float) -> set[str]:
        of = engine(
            "canary", msgspec.structs.replace(load_policy(None), canary_share=share, holdout_share=0.0)
        )
        return {key for at, key in enumerate(keys) if decide(of, at, key=key).command is not None}

    small, large = chosen(0.05), chosen(0.5)
    assert small <= large
    assert 60 <= len(small) <= 145
    assert 900 <= len(large) <= 1100
    assert chosen(0.0) == set()
    assert len(chosen(1.0)) == 2000


@pytest.mark.parametrize(
    "covers", ["keys: [k0-" + "a" * 32 + "]", "tenants: [acme]", "plans: [pro]", "models: [digits]"]
)
def test_an_exception_holds_commands_back_until_it_ends(covers: str) -> None:
    text = f"""
    version: v
    mode: enforce
    rules: [{{name: all, maturity: stable, action: suspend, duration_s: 60}}]
    exceptions: [{{{covers}, owner: ana, reason: their own model, expires: 2025-11-23}}]
    """
    of = PolicyEngine(parse_policy(text, "here"), SIGNER)
    last_ms = 1_763_942_399_999  # 2025-11-23T23:59:59.999Z
    held = decide(of, 0, tenant="acme", plan="pro", time_ms=last_ms)
    assert held.withheld == "exception of ana until 2025-11-23: their own model"
    other = "k0-" + "b" * 32
    assert decide(of, 1, key=other, tenant="x", plan="y", model="z").command is not None
    assert decide(of, 2, tenant="acme", plan="pro", time_ms=last_ms + 1).command is not None


def test_conditions_must_all_hold_and_the_first_matching_rule_decides() -> None:
    text = """
    version: v
    rules:
      - name: narrow
        conditions: {levels: [critical], families: [rate], min_families: 2, models: [digits], tenants: [acme],
                     plans: [pro], min_query_count: 50}
        action: revoke
        duration_s: 60
      - {name: wide, conditions: {levels: [warning, critical]}, action: watch, duration_s: 60}
    """
    of = engine("observe", parse_policy(text, "here"))
    good: dict[str, Any] = {
        "level": "critical",
        "families": ("boundary", "rate"),
        "tenant": "acme",
        "plan": "pro",
        "query_count": 50,
    }
    assert decide(of, **good).rule == "narrow"
    for change in (
        {"families": ("rate",)},
        {"families": ("boundary", "river")},
        {"tenant": None},
        {"plan": "free"},
        {"model": "chat"},
        {"query_count": 49},
        {"level": "warning"},
    ):
        assert decide(of, **(good | change)).rule == "wide"
    assert of.decide(make_alert(level="notice")) is None
    assert of.decide(make_alert(subject="campaign")) is None


def test_a_persons_word_restores_and_holds_against_the_same_finding_only() -> None:
    of = engine()
    assert decide(of, 0, families=("boundary",)).command is not None
    restored = of.forgive(honest(model="digits"))
    assert restored.command is not None
    assert restored.command.action == "restore"
    assert restored.command.sequence == START_MS + 1
    verify(restored.command, {SIGNER.key_id: SIGNER.public_key})
    assert decide(of, 1, families=("boundary",)).withheld == "a person said that this finding is honest"
    assert decide(of, 2, families=("boundary",), level="notice").command is None
    assert decide(of, 3, families=("boundary", "rate")).command is not None
    assert decide(of, 4, families=("boundary",), level="critical").command is not None
    much_later = START_MS + 31 * 24 * HOUR_MS
    assert decide(of, 5, families=("boundary",), time_ms=much_later).command is not None


def test_forgiving_a_key_lifts_every_model_and_the_same_word_gives_the_same_ids() -> None:
    one, other = engine(), engine()
    for of in (one, other):
        decide(of, 0)
        decide(of, 1, model="chat")
    assert one.forgive(honest()) == other.forgive(honest())
    for model in ("digits", "chat"):
        assert decide(one, 2, model=model).command is None


def test_a_guilty_verdict_takes_back_what_was_forgiven() -> None:
    of = engine()
    of.forgive(honest())
    assert decide(of, 0).command is None
    of.condemn(honest(verdict="guilty"))
    assert decide(of, 1).command is not None


def test_state_is_bounded() -> None:
    of = engine("observe")
    for at in range(5000):
        decide(of, at, key=f"k0-{at:032x}", time_ms=START_MS + at * HOUR_MS)
    assert len(of._core.state.standing) < 2000


@pytest.mark.parametrize("blob", [b"", b"junk", msgspec.msgpack.encode({"version": 9})])
def test_a_damaged_or_foreign_state_is_refused(blob: bytes) -> None:
    of = engine()
    before = of.dump()
    with pytest.raises(PolicyStateError):
        of.restore(blob)
    assert of.dump() == before
