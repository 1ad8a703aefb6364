"""`modelwarden audit`, `rules` and `policy` keys, as a person or a script calls them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from detectors.alert import Alert
from sinks.audit import AuditChain
from sinks.files import FileSink
from sinks.signing import key_id, load_public_key
from sinks.trustedkeys import load_trusted_keys
from streams.cli import main

if TYPE_CHECKING:
    from pathlib import Path

COUNT = 9


@pytest.fixture
def run(tmp_path: Path) -> Path:
    chain = AuditChain()
    fields: dict[str, Any] = {
        "time_ms": 1_763_900_000_000, "key": "k0-" + "a" * 32, "model": "digits", "level": "warning",
        "key_p_value": 1e-3, "e_value_log10": 1.2, "extrapolated": False, "families": ("rate",),
        "evidence": (), "features": (), "techniques": ("AML.T0034.000",), "query_count": 9, "topic": "t",
        "partition": 0, "first_offset": 0, "code_version": "0", "reference_version": "0",
        "would_not_have_fired": "", "sentence": "A test.",
    }  # fmt: skip
    with FileSink(tmp_path) as sink:
        alerts = [Alert(alert_id=f"{at:032x}", offset=at, **fields) for at in range(COUNT)]
        sink.write("alerts", alerts)
        sink.write("audit", [chain.append("alert", alert, alert.time_ms) for alert in alerts])
    return tmp_path


def call(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result.stdout


def test_a_run_is_verified_noted_and_exported(run: Path) -> None:
    assert "9 entries in 1 partition(s): the chain holds." in call("audit", "verify", "--run", run)
    heads = run / "heads.json"
    heads.write_text(call("audit", "heads", "--run", run, "-o", "json"), encoding="utf-8")
    findings = call("audit", "export", "--run", run, "--format", "ocsf").splitlines()
    assert [json.loads(finding)["metadata"]["uid"] for finding in findings] == [
        f"{at:032x}" for at in range(COUNT)
    ]
    audit = run / "audit.jsonl"
    lines = audit.read_text(encoding="utf-8").splitlines(keepends=True)
    assert call("audit", "export", "--run", run) == "".join(lines)
    audit.write_text("".join(lines[:-1]), encoding="utf-8")
    call("audit", "verify", "--run", run)
    said = json.loads(call("audit", "verify", "--run", run, "--heads", heads, "-o", "json", code=1))
    assert [(fault["kind"], fault["sequence"]) for fault in said["faults"]] == [("cut_off", COUNT - 1)]
    audit.write_text("".join([*lines[:4], *lines[5:]]), encoding="utf-8")
    assert "entry 4 is missing" in call("audit", "verify", "--run", run, code=1)


def test_rules_are_tested_linted_and_compared(run: Path, tmp_path: Path) -> None:
    assert "14 of 14 tests pass." in call("rules", "test")
    assert "sound" in call("rules", "lint", "--strict")
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    rule = "{name: a, maturity: stable, action: ACTION, duration_s: 60}"
    text = f"version: v\nholdout_share: 0.0\nrules: [{rule}]\n"
    old.write_text(text.replace("ACTION", "watch"), encoding="utf-8")
    new.write_text(text.replace("ACTION", "suspend"), encoding="utf-8")
    assert "no positive test" in call("rules", "lint", old, code=1)
    difference = json.loads(call("rules", "diff", old, new, "--run", run, "-o", "json"))
    assert [(change["change"], change["after"]) for change in difference["keys"]] == [
        ("newly acted on", "suspend")
    ]
    assert json.loads(call("rules", "diff", old, old, "--run", run, "-o", "json"))["keys"] == []


def test_a_key_is_trusted_and_rotated_with_an_overlap(tmp_path: Path) -> None:
    trusted, old, new = tmp_path / "trusted.yaml", tmp_path / "one.pem", tmp_path / "two.pem"
    call("policy", "keygen", old)
    call("policy", "trust", f"{old}.pub", "--to", trusted, "--for", "commands", "--tenant", "acme")
    call("policy", "rotate-key", trusted, "--old", f"{old}.pub", "--new", new, "--overlap-days", 7)
    keys = load_trusted_keys(trusted).keys
    ended, begun = (keys[key_id(load_public_key(tmp_path / f"{name}.pem.pub"))] for name in ("one", "two"))
    assert (begun.purposes, begun.tenants) == (("commands",), ("acme",))
    assert 6.9 < (ended.not_after - begun.not_before).total_seconds() / 86_400 < 7.1
    secret = old.read_text(encoding="utf-8").splitlines()[1]
    assert secret not in trusted.read_text(encoding="utf-8")
    call("policy", "rotate-key", trusted, "--old", f"{old}.pub", "--new", new, code=1)
