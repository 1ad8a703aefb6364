"""Modes never leak; offences climb and decay; people approve, reject and undo; the allowlist always wins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from alerts import KEY, START_MS
from graduated import (
    DAY_MS,
    HOUR_MS,
    POLICY,
    RULES,
    act,
    alerts,
    allow,
    commands,
    decide,
    engine,
    sent,
    words,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from sinks.policy import WAITS, PolicyEngine
from sinks.policycore import share_of
from sinks.policyfile import parse_policy

if TYPE_CHECKING:
    from detectors.alert import Alert
    from sinks.records import Decision, Feedback

# --- modes -----------------------------------------------------------------------------------------------


@given(st.lists(st.one_of(alerts, words), max_size=60), st.floats(0, 1), st.booleans(), st.data())
@settings(max_examples=200)
def test_no_enforceable_command_leaves_for_a_key_outside_the_canary(
    stream: list[Alert | Feedback],
    share: float,
    approve: bool,  # noqa: FBT001 - drawn
    data: st.DataObject,
) -> None:
    mode = data.draw(st.sampled_from(["observe", "canary", "enforce"]))
    rules = tuple(
        msgspec.structs.replace(
            rule,
            mode=data.draw(st.sampled_from(["observe", "canary", "enforce"])),
            maturity=data.draw(st.sampled_from(["sandbox", "incubating", "stable"])),
        )
        for rule in POLICY.rules
    )
    holdout = data.draw(st.sampled_from([0.0, 0.3, 1.0]))
    policy = msgspec.structs.replace(
        POLICY, mode=mode, rules=rules, canary_share=share, holdout_share=holdout
    )
    strongest = {rule.name: rule.strongest_mode for rule in rules}
    for command in commands(engine(policy), stream, approve):
        assert mode != "observe"
        inside = share_of(command.key, "canary") < share
        assert inside or mode == "enforce"
        assert share_of(command.key, "holdout") >= holdout
        if command.action != "restore":
            assert strongest[command.rule] != "observe"
            assert inside or strongest[command.rule] == "enforce"
            assert command.expires_ms > command.issued_ms


@given(st.lists(alerts, max_size=40))
def test_no_revocation_leaves_without_two_families_or_a_persons_name(stream: list[Alert]) -> None:
    of = engine()
    families = {alert.alert_id: set(alert.families) for alert in stream}
    for command in commands(of, list(stream), approve=True):
        if command.action == "revoke":
            assert command.approved_by == "ana" or len(families[command.alert_id]) >= 2


@pytest.mark.parametrize(
    ("maturity", "effective"), [("sandbox", "observe"), ("incubating", "canary"), ("stable", "enforce")]
)
def test_only_a_stable_rule_enforces(maturity: Any, effective: str) -> None:
    rules = tuple(msgspec.structs.replace(rule, maturity=maturity) for rule in POLICY.rules)
    assert decide(engine(msgspec.structs.replace(POLICY, rules=rules)), 0).mode == effective


def test_about_one_key_in_a_hundred_is_only_observed_for_ever() -> None:
    of = engine(msgspec.structs.replace(POLICY, holdout_share=0.01))
    keys = [f"k0-{number:032x}" for number in range(4000)]
    held = {key for at, key in enumerate(keys) if sent(decide(of, 0, at, key=key, level="notice")) is None}
    assert 15 <= len(held) <= 75
    for at, key in enumerate(sorted(held)):
        assert "holdout" in str(decide(of, 1, 5000 + at, key=key).withheld)


# --- escalation and decay --------------------------------------------------------------------------------


def test_offences_climb_to_the_last_step_and_no_further() -> None:
    of = engine()
    got = [sent(decide(of, hours, families=("boundary", "rate"))) for hours in (0, 2, 4)]
    assert got == ["throttle", "suspend", "revoke"]
    last = decide(of, 300, families=("boundary", "rate"))
    assert (last.step, sent(last)) == (0, "throttle"), "ten quiet days took it all the way down"


def test_a_quiet_time_takes_one_step_down() -> None:
    of = engine()
    assert [sent(decide(of, hours)) for hours in (0, 2)] == ["throttle", "suspend"]
    assert decide(of, 2 + 25).step == 1
    assert decide(of, 2 + 25 + 49).step == 0


def test_alerts_under_a_standing_command_do_not_climb() -> None:
    of = engine()
    assert sent(decide(of, 0)) == "throttle"
    for minute in range(1, 50):
        again = decide(of, minute / 60, 100 + minute)
        assert again.withheld == "throttle stands for this key and model already"
    assert decide(of, 1.5).step == 1


def test_what_was_only_observed_is_no_reason_to_begin_higher() -> None:
    of = engine(msgspec.structs.replace(POLICY, mode="observe"))
    assert [decide(of, hours).step for hours in (0, 2, 4)] == [0, 1, 2]
    of.set_policy(POLICY)
    assert (decide(of, 800).step, sent(decide(of, 804))) == (0, "suspend")


@given(st.lists(st.integers(0, 200), max_size=40))
def test_steps_stay_in_bounds_whatever_the_times(hours: list[int]) -> None:
    of = engine()
    for at, hour in enumerate(hours):
        assert 0 <= decide(of, hour, at).step <= 2


# --- approval --------------------------------------------------------------------------------------------


def third_offence(of: PolicyEngine, **fields: Any) -> Decision:
    for hours in (0, 2):
        decide(of, hours, **fields)
    return decide(of, 4, **fields)


def test_a_revocation_by_one_family_waits_and_the_key_is_suspended_meanwhile() -> None:
    of = engine()
    waiting = third_offence(of)
    assert (waiting.action, waiting.withheld, sent(waiting)) == ("revoke", WAITS, "suspend")
    assert waiting.pending_until_ms == waiting.time_ms + DAY_MS
    assert [notice.kind for notice in of.take_notices()] == ["approval_waiting"]
    again = decide(of, 5)
    assert "waits for a person's approval already" in str(again.withheld)
    approved = of.operate(act(waiting, "approve", 6))
    assert approved is not None
    assert approved.command is not None
    assert (approved.command.action, approved.command.approved_by) == ("revoke", "ana")
    assert (approved.follows, approved.decided_by) == (waiting.decision_id, "ana")
    assert approved.command.issued_ms == START_MS + 6 * HOUR_MS
    twice = of.operate(act(waiting, "approve", 7, action_id="b" * 32))
    assert twice is not None
    assert twice.command is None


def test_a_rejection_lifts_the_suspension_that_was_for_the_waiting() -> None:
    of = engine()
    waiting = third_offence(of)
    rejected = of.operate(act(waiting, "reject", 5))
    assert rejected is not None
    assert sent(rejected) == "restore"
    approved = of.operate(act(waiting, "approve", 6))
    assert approved is not None
    assert approved.command is None


@pytest.mark.parametrize(
    ("hours", "change", "why"),
    [
        (30, {}, "its time is over"),
        (5, {"decision_id": "f" * 32}, "no decision waits under this id"),
        (5, {"key": "k0-" + "b" * 32}, "no decision waits under this id"),
    ],
)
def test_an_approval_that_comes_late_or_names_another_decision_does_nothing(
    hours: float, change: dict[str, Any], why: str
) -> None:
    of = engine()
    approved = of.operate(act(third_offence(of), "approve", hours, **change))
    assert approved is not None
    assert (approved.command, why in str(approved.withheld)) == (None, True)


def test_approval_can_be_asked_for_always_and_survives_a_restart() -> None:
    rules = (msgspec.structs.replace(POLICY.rules[0], approval="always"), POLICY.rules[1])
    policy = msgspec.structs.replace(POLICY, rules=rules)
    of, other = engine(policy), engine(policy)
    waiting = third_offence(of, families=("boundary", "rate"))
    assert waiting.withheld == WAITS
    other.restore(of.dump())
    expected, got = (one.operate(act(waiting, "approve", 5)) for one in (of, other))
    assert expected == got
    assert got is not None
    assert sent(got) == "revoke"


# --- undo and appeals ------------------------------------------------------------------------------------


def test_undo_restores_and_holds_against_the_same_evidence_also_after_a_restart() -> None:
    of, other = engine(), engine()
    first = decide(of, 0, families=("boundary",))
    undone = of.operate(act(first, "undo", 0.5))
    assert undone is not None
    assert (sent(undone), undone.follows, undone.decided_by) == ("restore", first.decision_id, "ana")
    other.restore(of.dump())
    for one in (of, other):
        for at in range(20):
            same = decide(one, 1 + at, 200 + at, families=("boundary",))
            assert (same.command, same.withheld) == (None, "a person said that this finding is honest")
        assert sent(decide(one, 30, 300, families=("boundary", "rate"))) == "throttle", "another finding"


def test_an_undo_also_forgives_what_was_found_while_the_command_stood() -> None:
    of = engine()
    first = decide(of, 0, level="notice", families=("rate",))
    assert decide(of, 0.1, 1, level="notice", families=("boundary",)).command is None
    of.operate(act(first, "undo", 0.2))
    for families in (("rate",), ("boundary",), ("boundary", "rate")):
        assert decide(of, 0.3, 2, level="notice", families=families).command is None


def test_an_undo_leaves_in_mode_observe_if_a_command_stands() -> None:
    of = engine()
    first = decide(of, 0)
    of.set_policy(msgspec.structs.replace(POLICY, mode="observe"))
    undone = of.operate(act(first, "undo", 0.1))
    assert undone is not None
    assert sent(undone) == "restore"
    again = of.operate(act(first, "undo", 0.2, action_id="b" * 32))
    assert again is not None
    assert (again.command, again.withheld) == (None, "mode observe")


def test_an_action_that_is_sent_again_or_is_very_old_changes_nothing() -> None:
    of, other = engine(), engine()
    undo = act(decide(of, 0), "undo", 0.1)
    assert of.operate(undo) is not None
    other.restore(of.dump())
    for one in (of, other):
        assert sent(decide(one, 1, families=("rate",))) == "throttle"
        assert one.operate(undo) is None
    assert other.operate(act(decide(other, 24 * 60), "undo", 1, action_id="c" * 32)) is None


def test_appeals_are_told_and_granting_one_is_an_undo() -> None:
    of = engine()
    first = decide(of, 0)
    assert of.operate(act(first, "open_appeal", 0.1)) is None
    (notice,) = of.take_notices()
    assert (notice.kind, notice.severity, notice.decision_id) == (
        "appeal_opened",
        "ticket",
        first.decision_id,
    )
    assert of.operate(act(first, "deny_appeal", 0.2)) is None
    granted = of.operate(act(first, "grant_appeal", 0.3))
    assert granted is not None
    assert (granted.rule, sent(granted)) == ("appeal", "restore")


# --- allowlist -------------------------------------------------------------------------------------------


def test_an_entry_holds_back_commands_and_lifts_those_that_stand() -> None:
    of = engine()
    standing = decide(of, 0)
    other = decide(of, 0, 1, key="k0-" + "b" * 32)
    (lifted,) = of.set_allowlist((allow(),))
    assert (lifted.rule, sent(lifted), lifted.follows) == ("allowlist", "restore", standing.decision_id)
    assert lifted.command is not None
    assert (lifted.command.key, lifted.command.issued_ms) == (KEY, START_MS + 1000)
    assert other.command is not None
    assert of.set_allowlist((allow(),)) == [], "once"
    held = decide(of, 2)
    assert held.withheld == "allowlist, evaluation (ana): contract 7"
    assert sent(decide(of, 24 * 31)) == "throttle", "it has ended"


def test_an_entry_ends_a_revocation_that_waits() -> None:
    of = engine()
    waiting = third_offence(of)
    lifted = of.set_allowlist((allow(),))
    assert [sent(decision) for decision in lifted] == ["restore"]
    approved = of.operate(act(waiting, "approve", 5))
    assert approved is not None
    assert approved.command is None


def test_an_exception_of_a_new_policy_lifts_what_stands_too() -> None:
    of = engine()
    decide(of, 0, tenant="acme")
    text = RULES + "exceptions: [{tenants: [acme], owner: ana, reason: theirs, expires: 2027-01-01}]"
    (lifted,) = of.set_policy(parse_policy(text, "here"))
    assert sent(lifted) == "restore"


@given(st.lists(alerts, max_size=40), st.sampled_from(["acme", "umbrella"]))
def test_no_command_touches_what_the_allowlist_covers(stream: list[Alert], tenant: str) -> None:
    of = engine()
    of.set_allowlist((allow(keys=(), tenants=(tenant,), expires_ms=START_MS + 900 * DAY_MS),))
    assert all(command.tenant != tenant for command in commands(of, list(stream), approve=True))
