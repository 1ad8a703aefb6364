"""Rule tests and lint: they fail for what is wrong, and say where."""

from __future__ import annotations

import datetime as dt
import shutil
from importlib.resources import as_file, files
from typing import TYPE_CHECKING

import pytest

from sinks.errors import PolicyError
from sinks.policyfile import load_source
from sinks.ruletests import Finding, lint, run_tests

if TYPE_CHECKING:
    from pathlib import Path

TODAY = dt.date(2026, 11, 25)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the default policy, to be spoilt."""
    with as_file(files("deploy") / "policies" / "default") as default:
        shutil.copytree(default, tmp_path / "policy")
    return tmp_path / "policy"


def change(folder: Path, file: str, old: str, new: str) -> None:
    path = folder / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def said(found: list[Finding]) -> list[str]:
    return [f"{one.severity} {one.rule} {one.path}: {one.what}" for one in found]


def test_the_default_policy_passes_its_tests_and_has_no_faults() -> None:
    source = load_source(None)
    outcomes = run_tests(source)
    assert len(outcomes) >= 3 * len(source.policy.rules)
    assert [outcome for outcome in outcomes if not outcome.passed] == []
    assert lint(source, TODAY) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "rule", "detail"),
    [
        ("critical-suspend", "levels: [critical]", "levels: [notice]", "critical-suspend", "decided"),
        ("critical-suspend", "    action: suspend\n  - name: the", "    action: watch\n  - name: the",
         "critical-suspend", "expected critical-suspend to decide watch"),
        ("notice-watch", "alerts: [{level: warning, families: [rate]}]",
         "alerts: [{level: warning, families: [rate], query_count: 0}, {level: notice}]", "notice-watch",
         "exactly one condition not met, and these are not: none"),
        ("budget-watch", "families: [boundary]}]\n  - name: a", "families: [budget]}]\n  - name: a",
         "budget-watch", "exactly one condition"),
    ],
)  # fmt: skip
def test_a_changed_rule_fails_a_test(  # noqa: PLR0917 - a table
    folder: Path, file: str, old: str, new: str, rule: str, detail: str
) -> None:
    change(folder, f"rules/{file}.yaml", old, new)
    failed = [outcome for outcome in run_tests(load_source(folder)) if not outcome.passed]
    assert rule in {outcome.rule for outcome in failed}
    assert any(detail in outcome.detail for outcome in failed)


def test_a_test_whose_alert_cannot_be_is_refused_by_its_path(folder: Path) -> None:
    change(folder, "rules/notice-watch.yaml", "{level: notice, families: [rate]}", "{level: loud}")
    with pytest.raises(PolicyError, match=r"rule notice-watch, \$\.tests\[0\]\.alerts\[0\]\.level"):
        run_tests(load_source(folder))


@pytest.mark.parametrize(
    ("file", "old", "new", "what"),
    [
        ("policy.yaml", "  - notice-watch\n", "", "error notice-watch $: the head does not list this rule"),
        ("policy.yaml", "  - critical-suspend\n  - warning-throttle",
         "  - warning-throttle\n  - critical-suspend", None),
        ("rules/warning-throttle.yaml", "levels: [warning]", "levels: [critical]",
         "error warning-throttle $.conditions: critical-suspend stands before it and takes all its alerts"),
        ("rules/warning-throttle.yaml", "kind: near_miss", "kind: negative", "$.tests: no near miss test"),
        ("rules/warning-throttle.yaml", "title: Good", "references: []\n# title: Good", None),
        ("rules/warning-throttle.yaml", "maturity: stable", "maturity: incubating",
         "$.maturity: incubating: it acts in mode canary at most"),
        ("rules/warning-throttle.yaml", "levels: [warning]", "levels: [warning]\n  techniques: [AML.T9999]",
         "error warning-throttle $.conditions.techniques[0]: no detector reports AML.T9999"),
        ("rules/critical-suspend.yaml", "  - action: suspend\n    duration_s: 86400",
         "  - action: watch\n    duration_s: 86400", "$.escalation: a step is weaker than the one before"),
        ("policy.yaml", "exceptions: []",
         "exceptions: [{tenants: [a], owner: ana, reason: r, expires: 2026-11-01}]",
         "$.exceptions[0].expires: ended on 2026-11-01"),
        ("policy.yaml", "exceptions: []",
         "exceptions: [{tenants: [a], owner: ana, reason: r, expires: 2026-12-01}]", "ends in 6 days"),
        ("policy.yaml", "holdout_share: 0.01", "holdout_share: 0.0", "precision cannot be measured"),
    ],
)  # fmt: skip
def test_lint_says_what_is_wrong(folder: Path, file: str, old: str, new: str, what: str | None) -> None:
    if "references: []" in new:
        change(folder, file, "references:\n  - https://atlas.mitre.org/techniques/AML.T0024.002\n", "")
        what = "$.title: missing"
    change(folder, file, old, new)
    found = said(lint(load_source(folder), TODAY))
    assert found == [] if what is None else any(what in line for line in found), found


def test_a_folder_that_does_not_fit_together_is_refused(folder: Path, tmp_path: Path) -> None:
    change(folder, "rules/notice-watch.yaml", "name: notice-watch", "name: other")
    with pytest.raises(PolicyError, match=r"rules/notice-watch\.yaml: \$\.name: other, which is not"):
        load_source(folder)
    (folder / "rules" / "notice-watch.yaml").unlink()
    with pytest.raises(PolicyError, match=r"there is no such file, though policy\.yaml lists it"):
        load_source(folder)
    change(folder, "policy.yaml", "  - critical-suspend", "  - {name: inline}")
    with pytest.raises(PolicyError, match=r"\$\.rules: in a folder it lists names of files"):
        load_source(folder)
    with pytest.raises(PolicyError, match=r"there is no policy\.yaml"):
        load_source(tmp_path)
