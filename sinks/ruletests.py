"""The tests that stand beside each rule, and what can be seen to be wrong with a policy without running it.

A test runs its alerts through the whole policy as if every rule were stable and enforced, so it also sees an
earlier rule that takes its alerts away. Pure: nothing is sent, and the same policy gives the same answers.
"""

from __future__ import annotations

import datetime as dt  # noqa: TC003 - a parameter's type
from typing import TYPE_CHECKING, Any, Literal, get_args

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from detectors.alert import FAMILY_TECHNIQUES, Alert, alert_id
from sinks.errors import PolicyError
from sinks.policy import PolicyEngine
from sinks.rules import MATURITY_MODES, MODES, Conditions, RuleAction, RuleTest, unmet
from sinks.signing import Signer
from sinks.yamlfile import explain_form

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sinks.policyfile import Policy, PolicySource
    from sinks.records import Decision
    from sinks.rules import Rule, RuleFile

KINDS = ("positive", "negative", "near_miss")
START_MS = 1_767_225_600_000
"""2026-01-01; the first alert of every test."""
_KEY = "k0-" + "0" * 32
_SOON_DAYS = 14
_RANK = {action: rank for rank, action in enumerate(get_args(RuleAction))}


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a test said."""

    rule: str
    test: str
    kind: str
    passed: bool
    detail: str
    """What was decided and, if it failed, what was expected."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something wrong or doubtful."""

    severity: Literal["error", "warning"]
    rule: str
    """Empty: the head."""
    path: str
    what: str


def run_tests(source: PolicySource) -> list[Outcome]:
    """Run every rule's tests. Raises PolicyError if a test's alert cannot be."""
    return [
        _run(source.policy, file, test, f"rule {file.name}, $.tests[{at}]")
        for file in source.rule_files
        for at, test in enumerate(file.tests)
    ]


def _run(policy: Policy, rule: RuleFile, test: RuleTest, where: str) -> Outcome:
    alerts = _alerts(test, where)
    decision = _decide(policy, alerts)
    decided = "no rule matched" if decision is None else f"{decision.rule} decided {decision.action}"
    is_ours = decision is not None and decision.rule == rule.name
    expected = "another rule or none"
    if test.kind == "positive":
        wanted = test.action or rule.action
        passed = is_ours and decision is not None and decision.action == wanted
        expected = f"{rule.name} to decide {wanted}"
    else:
        passed = not is_ours
    missed = unmet(rule.conditions, alerts[-1])
    if test.kind == "near_miss" and len(missed) != 1:
        passed = False
        expected = f"exactly one condition not met, and these are not: {', '.join(missed) or 'none'}"
    detail = decided if passed else f"{decided}, expected {expected}"
    return Outcome(rule=rule.name, test=test.name, kind=test.kind, passed=passed, detail=detail)


def _decide(policy: Policy, alerts: list[Alert]) -> Decision | None:
    """Return what a policy makes of the last alert, if every rule could act."""
    rules = tuple(msgspec.structs.replace(rule, maturity="stable", mode="enforce") for rule in policy.rules)
    enforced = msgspec.structs.replace(policy, mode="enforce", holdout_share=0.0, rules=rules)
    engine = PolicyEngine(enforced, Signer(Ed25519PrivateKey.generate()))  # signatures that go nowhere
    decisions = [engine.decide(alert) for alert in alerts]
    return decisions[-1]


def _alerts(test: RuleTest, where: str) -> list[Alert]:
    time_ms, made = START_MS, []
    for at, fields in enumerate(test.alerts):
        given = dict(fields)
        time_ms += round(1000 * float(given.pop("after_s", 0)))
        age_s = float(given.pop("key_age_s", 0))
        families = tuple(given.get("families", ("boundary",)))
        plain: dict[str, Any] = {
            "alert_id": alert_id("test", 0, at, test.name),
            "time_ms": time_ms,
            "key": _KEY,
            "model": "model",
            "level": "warning",
            "key_p_value": 1e-3,
            "e_value_log10": 1.2,
            "extrapolated": False,
            "families": families,
            "evidence": (),
            "features": (),
            "techniques": tuple(sorted({t for f in families for t in FAMILY_TECHNIQUES.get(f, ())})),
            "query_count": 100,
            "topic": "test",
            "partition": 0,
            "offset": at,
            "first_offset": 0,
            "first_time_ms": time_ms - round(1000 * age_s),
            "code_version": "test",
            "reference_version": "test",
            "would_not_have_fired": "",
            "sentence": "A test.",
        }
        try:
            made.append(msgspec.convert(plain | given, Alert))
        except msgspec.ValidationError as error:
            why = f"{where}.alerts[{at}]{explain_form(error, Alert.__struct_fields__).removeprefix('$')}"
            raise PolicyError("rule tests", why, "Correct or remove that field") from error
    return made


def lint(source: PolicySource, today: dt.date) -> list[Finding]:
    """Say what is wrong or doubtful with a policy, errors first."""
    policy = source.policy
    found = [
        Finding(severity="error", rule=name, path="$", what="the head does not list this rule: it never acts")
        for name in source.unlisted
    ]
    for at, file in enumerate(source.rule_files):
        found += _lint_tests(file)
        found += _lint_rule(file, policy.rules[:at])
        found += _lint_exceptions(file.name, file.exceptions, today)
    found += _lint_exceptions("", policy.exceptions, today)
    if policy.mode == "canary" and policy.canary_share == 0:
        found.append(_warn("", "$.canary_share", "0: mode canary acts on no key"))
    if policy.holdout_share == 0:
        found.append(
            _warn("", "$.holdout_share", "0: precision cannot be measured without keys only observed")
        )
    return sorted(found, key=lambda finding: finding.severity)


def _lint_tests(file: RuleFile) -> Iterator[Finding]:
    kinds = {test.kind for test in file.tests}
    for kind in KINDS:
        if kind not in kinds:
            what = f"no {kind.replace('_', ' ')} test"
            yield Finding(severity="error", rule=file.name, path="$.tests", what=what)


def _lint_rule(rule: Rule, earlier: tuple[Rule, ...]) -> Iterator[Finding]:
    for other in earlier:
        if _takes_all(other.conditions, rule.conditions):
            what = f"{other.name} stands before it and takes all its alerts"
            yield Finding(severity="error", rule=rule.name, path="$.conditions", what=what)
    known = {technique for techniques in FAMILY_TECHNIQUES.values() for technique in techniques}
    for at, technique in enumerate(rule.conditions.techniques):
        if technique not in known:
            where = f"$.conditions.techniques[{at}]"
            what = f"no detector reports {technique}"
            yield Finding(severity="error", rule=rule.name, path=where, what=what)
    if not rule.title:
        yield _warn(rule.name, "$.title", "missing: on-call people read it")
    if rule.maturity == "stable" and not rule.false_positives:
        yield _warn(rule.name, "$.false_positives", "missing: say which honest use looks like this")
    if MODES.index(rule.mode) > MODES.index(MATURITY_MODES[rule.maturity]) and rule.maturity != "stable":
        what = f"{rule.maturity}: it acts in mode {MATURITY_MODES[rule.maturity]} at most"
        yield _warn(rule.name, "$.maturity", what)
    if rule.action == "revoke":
        yield _warn(rule.name, "$.action", "revoke as a first action: suspend, and revoke on escalation")
    ranks = [_RANK[step.action] for step in rule.steps]
    if ranks != sorted(ranks):
        yield _warn(rule.name, "$.escalation", "a step is weaker than the one before")


def _lint_exceptions(rule: str, exceptions: Any, today: dt.date) -> Iterator[Finding]:
    for at, item in enumerate(exceptions):
        days = (item.expires - today).days
        path = f"$.exceptions[{at}].expires"
        if days < 0:
            yield _warn(rule, path, f"ended on {item.expires}: remove it")
        elif days <= _SOON_DAYS:
            yield _warn(rule, path, f"ends in {days} days: ask {item.owner}")


def _takes_all(earlier: Conditions, later: Conditions) -> bool:
    """Tell whether whatever meets `later` meets `earlier`; where that cannot be seen, no."""
    for name in Conditions.__struct_fields__:
        one, other = getattr(earlier, name), getattr(later, name)
        if one in ((), None, False) or one == other:
            continue
        if name.startswith("min_"):
            if other < one:
                return False
        elif name.startswith("max_"):
            if other is None or other > one:
                return False
        elif isinstance(one, tuple) and other:
            if name in {"families", "techniques"} or not set(other) <= set(one):
                return False
        else:
            return False
    # A budget alert meets only rules that name its family.
    return "budget" not in later.families or "budget" in earlier.families


def _warn(rule: str, path: str, what: str) -> Finding:
    return Finding(severity="warning", rule=rule, path=path, what=what)
