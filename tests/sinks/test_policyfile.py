"""Policy files: the default holds, and every mistake is refused by its path."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sinks.errors import FileFormatError, PolicyError
from sinks.policyfile import load_policy, parse_policy, weaker

if TYPE_CHECKING:
    from pathlib import Path

RULE = "rules: [{name: a, action: watch, duration_s: 60}]"


def test_the_default_policy_observes_and_rises_with_the_level() -> None:
    policy = load_policy(None)
    assert policy.mode == "observe"
    found = {rule.conditions.levels: (rule.action, rule.duration_s) for rule in policy.rules}
    assert found == {
        ("notice",): ("watch", 86_400),
        ("warning",): ("throttle", 3_600),
        ("critical",): ("suspend", 3_600),
    }
    assert policy.rules[1].parameters == {"requests_per_minute": 60.0}


def test_the_mode_can_be_overridden_and_the_version_tells() -> None:
    default, enforced = load_policy(None), load_policy(None, mode="enforce")
    assert enforced.mode == "enforce"
    assert default.policy_version.startswith("default-2-")
    assert default.policy_version != enforced.policy_version
    assert default.policy_version == load_policy(None).policy_version


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "version: v\nrules: [{name: a, conditons: {}, action: watch, duration_s: 60}]",
            "$.rules[0].conditons: no such field, perhaps `conditions`",
        ),
        (
            "version: v\nrules: [{name: a, conditions: {level: [notice]}, action: watch, duration_s: 60}]",
            "$.rules[0].conditions.level: no such field, perhaps `levels`",
        ),
        (f"version: v\nmod: enforce\n{RULE}", "$.mod: no such field, perhaps `mode`"),
        (f"version: v\nmode: enforced\n{RULE}", "$.mode: invalid enum value"),
        (RULE, "$: object missing required field `version`"),
        ("version: v\nrules: [{name: a, action: restore, duration_s: 60}]", "$.rules[0].action"),
        (
            "version: v\nrules: [{name: a, action: watch, duration_s: 0}]",
            "$.rules[0].duration_s: expected `int` >= 1",
        ),
        ("version: v\nrules: [{name: a, action: watch, duration_s: 24h}]", "$.rules[0].duration_s"),
        (
            "version: v\nrules: [{name: a, action: throttle, duration_s: 9}]",
            "$.rules[0].parameters: throttle needs requests_per_minute",
        ),
        (
            "version: v\nrules: [{name: a, action: watch, duration_s: 9, parameters: {decimals: 1}}]",
            "$.rules[0].parameters: watch does not know decimals",
        ),
        (
            "version: v\nrules: [{name: a, action: coarsen, duration_s: 9, parameters: {decimals: .nan}}]",
            "$.rules[0].parameters: coarsen: a parameter is negative or not finite",
        ),
        (
            (
                "version: v\nrules: [{name: a, action: watch, duration_s: 9, escalation: [{action: throttle, "
                "duration_s: 9}]}]"
            ),
            "$.rules[0].escalation[0].parameters: throttle needs requests_per_minute",
        ),
        (
            "version: v\nrules: [{name: a, action: watch, duration_s: 9, conditions: {techniques: [T1]}}]",
            "$.rules[0].conditions.techniques[0]: expected `str` matching regex",
        ),
        (
            "version: v\nbreaker: {max_key: 1}\nrules: []",
            "$.breaker.max_key: no such field, perhaps `max_keys`",
        ),
        (
            (
                "version: v\nrules: [{name: a, action: watch, duration_s: 9, "
                "exceptions: [{owner: o, reason: r, families: [rate], expires: 2027-01-01}]}]"
            ),
            "$.rules[0].exceptions[0]: it names no key",
        ),
        (
            "version: v\nrules: [" + 2 * "{name: a, action: watch, duration_s: 9}," + "]",
            "$.rules[1].name: used by an earlier rule",
        ),
        (
            f"version: v\n{RULE}\nexceptions: [{{owner: o, reason: r, expires: 2027-01-01}}]",
            "$.exceptions[0]: it names no key",
        ),
        (
            f"version: v\n{RULE}\nexceptions: [{{owner: o, reason: r, expires: 2027-01-01, keys: [s]}}]",
            "$.exceptions[0].keys[0]: expected `str` matching regex",
        ),
        (
            f"version: v\n{RULE}\nexceptions: [{{tenants: [t], reason: r, expires: 2027-01-01}}]",
            "missing required field `owner`",
        ),
        (
            f"version: v\n{RULE}\nexceptions: [{{tenants: [t], owner: o, reason: r}}]",
            "missing required field `expires`",
        ),
    ],
)
def test_a_mistake_is_refused_by_its_path(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PolicyError) as caught:
        load_policy(path)
    message = str(caught.value)
    assert said in message
    assert f"policy file {path}" in message
    assert "\n" not in message


def test_a_rule_given_twice_or_no_yaml_is_refused() -> None:
    with pytest.raises(FileFormatError, match="given twice"):
        parse_policy("version: v\nversion: w", "here")
    with pytest.raises(FileFormatError, match="here is not valid YAML"):
        parse_policy("rules: [", "here")


def test_the_weaker_mode_wins() -> None:
    assert weaker("enforce", "canary") == "canary"
    assert weaker("observe", "enforce") == "observe"
