"""`modelwarden policy`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from sinks.errors import PolicyError
from sinks.signing import load_signer
from streams.cli.policy import command

if TYPE_CHECKING:
    from pathlib import Path


def run(*arguments: str) -> str:
    result = CliRunner().invoke(command, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_check_shows_the_default_policy() -> None:
    output = run("check")
    assert "mode observe" in output
    for word in ("critical-suspend", "warning-throttle", "requests_per_minute 60", " 24 "):
        assert word in output


def test_check_answers_in_json(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("version: v\nrules: [{name: a, action: watch, duration_s: 60}]", encoding="utf-8")
    answer = json.loads(run("check", str(path), "-o", "json"))
    assert answer["valid"]
    assert answer["policy_version"].startswith("v-")
    assert answer["policy"]["rules"][0]["name"] == "a"


def test_check_names_the_path_of_a_misspelt_field(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("version: v\nrules: [{name: a, acton: watch, duration_s: 60}]", encoding="utf-8")
    with pytest.raises(PolicyError, match=r"\$\.rules\[0\]\.acton: no such field, perhaps `action`"):
        run("check", str(path))


@pytest.mark.parametrize("form", ["table", "json", "ndjson"])
def test_keygen_writes_a_key_and_prints_only_its_id(tmp_path: Path, form: str) -> None:
    path = tmp_path / "signing.pem"
    output = run("keygen", str(path), "-o", form)
    assert load_signer(path).key_id in output
    assert "PRIVATE" not in output
    for line in path.read_text(encoding="utf-8").splitlines():
        assert line not in output


@pytest.mark.parametrize("arguments", [("--help",), ("check", "--help"), ("keygen", "--help")])
def test_help_has_an_example(arguments: tuple[str, ...]) -> None:
    output = run(*arguments)
    assert "Usage" in output
    assert "Examples:" in output
