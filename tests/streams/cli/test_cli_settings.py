"""`modelwarden settings show`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec
from click.testing import CliRunner

from streams.cli import main
from streams.settings import load_settings
from streams.settingsdoc import DOCUMENT, describe, document

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def show(*words: str) -> str:
    result = CliRunner().invoke(main, ["settings", "show", *words])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_each_setting_says_where_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("kafka: broker:9092\nlog:\n  level: debug\n  format: json\n")
    monkeypatch.setenv("MODELWARDEN_LOG__LEVEL", "error")
    rows = [json.loads(line) for line in show("--settings", str(path), "-o", "ndjson").splitlines()]
    found = {row["setting"]: (row["value"], row["source"]) for row in rows}
    assert found["kafka"] == ("broker:9092", "file")
    assert found["log.level"] == ("error", "environment")
    assert found["log.format"] == ("json", "file")
    assert found["topic_prefix"] == ("modelwarden.", "default")
    assert {row["setting"]: row["variable"] for row in rows}["log.level"] == "MODELWARDEN_LOG__LEVEL"


def test_json_is_the_tree_of_a_settings_file(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    shown = show("-o", "json")
    path.write_text(shown)
    assert show("--settings", str(path), "-o", "json") == shown


def test_secrets_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("consumer_group: sk-live-0123456789abcdef0123\n")
    for output in ("table", "json", "ndjson"):
        assert "0123456789" not in show("--settings", str(path), "-o", output)


def test_a_wrong_setting_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("engine:\n  hot_kyes: 5\n")
    result = CliRunner().invoke(main, ["settings", "show", "--settings", str(path)])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: modelwarden settings show: settings file")
    assert "hot_kyes" in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_document_and_the_command_agree(tmp_path: Path) -> None:
    assert document() == DOCUMENT.read_text(encoding="utf-8"), "run `python -m streams.settingsdoc`"
    rows = json.loads(show("--origin", "-o", "json"))
    docs = {doc.setting: doc for doc in describe()}
    assert [row["setting"] for row in rows] == list(docs)
    for row in rows:
        assert (row["origin"], row["variable"]) == ("default", docs[row["setting"]].variable)
        assert (row["default"], row["meaning"]) == (
            docs[row["setting"]].default,
            docs[row["setting"]].meaning,
        )
        assert f"| `{row['setting']}` |" in document()
        loaded = load_settings(None, {})
        for part in row["setting"].split("."):
            loaded = getattr(loaded, part)
        assert row["value"] == msgspec.to_builtins(loaded, enc_hook=str), "the default is what is in force"
    path = tmp_path / "mw.yaml"
    path.write_text("kafka: broker:9092")
    assert f"file {path}" in show("--settings", str(path), "--origin", "-o", "ndjson")


def test_settings_are_described_by_name() -> None:
    result = CliRunner().invoke(main, ["settings", "describe", "dead_letters", "-o", "json"])
    assert [doc["setting"] for doc in json.loads(result.stdout)] == [
        "dead_letters.max_share", "dead_letters.window_events", "dead_letters.max_consecutive",
    ]  # fmt: skip
    assert CliRunner().invoke(main, ["settings", "describe", "nothing"]).exit_code == 2
