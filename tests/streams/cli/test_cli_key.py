"""`modelwarden key`, as a process: what it shows, and what it never shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sinks.serving.keyref import key_reference
from streams.bus.kafka import KafkaBus
from streams.topics import create_topics

MODELWARDEN = Path(sys.executable).with_name("modelwarden")
RAW_KEY = "sk-live-Zm9vYmFyYmF6cXV4MTIzNDU2"
SECRET = bytes(range(33, 73))


def call(
    *words: str | Path, check: bool = True, cwd: Path | None = None, said: str | None = None, **environ: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [MODELWARDEN, "key", *words],
        capture_output=True,
        text=True,
        check=check,
        cwd=cwd,
        input=said,
        env={**os.environ, **environ},
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hold a run of a replay in ./run/1."""
    folder = tmp_path_factory.mktemp("key")
    for words in (
        ["simulate", "--events", "8000", "--to", "events.jsonl"],
        ["replay", "events.jsonl", "--references", "sample", "--alerts-to", "run/1"],
    ):
        subprocess.run([MODELWARDEN, *words], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def alert(home: Path) -> dict[str, str]:
    """Return the last alert of the run."""
    found: dict[str, str] = json.loads((home / "run/1/alerts.jsonl").read_text().splitlines()[-1])
    return found


def test_the_newest_run_is_shown_and_explained(home: Path, alert: dict[str, str]) -> None:
    shown = call("show", alert["key"], cwd=home).stdout
    assert f"Next: modelwarden key explain {alert['key']} --run run/1" in shown
    assert alert["level"] in shown
    assert "withheld: mode observe" in shown
    explained = call("explain", alert["key"], cwd=home).stdout
    assert alert["sentence"].split(";")[0][:40] in explained
    assert "What would have kept it from firing" in explained
    assert "\x1b" not in shown + explained


def test_json_holds_the_records(home: Path, alert: dict[str, str]) -> None:
    story = json.loads(call("show", alert["key"], "--from", "run/1", "-o", "json", cwd=home).stdout)
    assert alert in story["alerts"]
    assert story["decisions"]
    explained = json.loads(call("explain", alert["key"], "-o", "json", cwd=home).stdout)
    assert explained["alert"]["key"] == alert["key"]
    lines = call("show", alert["key"], "-o", "ndjson", cwd=home).stdout.splitlines()
    assert {kind for line in lines for kind in json.loads(line)} == {"alert", "decision"}


@pytest.mark.parametrize(
    "words",
    [
        ["show", RAW_KEY],
        ["explain", RAW_KEY],
        ["show", "k0-" + "ab" * 16, RAW_KEY],
        [RAW_KEY],
        ["show", "k0-" + "AB" * 16],
    ],
)
def test_what_may_be_a_raw_key_is_refused_unrepeated(words: list[str]) -> None:
    for options in ([], ["-o", "json"]) if words[0] != RAW_KEY else ([],):
        done = call(*words, *options, check=False)
        assert done.returncode == 2
        assert words[-1] not in done.stdout + done.stderr


def test_no_run_says_what_to_do(tmp_path: Path) -> None:
    done = call("show", "k0-" + "ab" * 16, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: modelwarden key show: run/: ")
    assert "modelwarden demo" in done.stderr


def test_a_reference_is_made_without_showing_the_key(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET + b"\n")
    piped = call("reference", "--secret", secret, said=RAW_KEY + "\n")
    assert piped.stdout.strip() == key_reference(RAW_KEY, SECRET)
    by_name = call(
        "reference", "--secret", secret, "--epoch", "3", "--env", "CUSTOMER", "-o", "json", CUSTOMER=RAW_KEY
    )
    assert json.loads(by_name.stdout) == {"key": key_reference(RAW_KEY, SECRET, 3), "epoch": 3}
    for done in (piped, by_name):
        assert RAW_KEY not in done.stdout + done.stderr


def test_a_short_secret_and_no_key_are_errors_that_show_neither(tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_text("tooshort12345")
    done = call("reference", "--secret", short, said=RAW_KEY, check=False)
    assert done.returncode == 1
    assert "13 bytes" in done.stderr
    assert "tooshort" not in done.stderr
    assert RAW_KEY not in done.stderr
    short.write_bytes(SECRET)
    empty = call("reference", "--secret", short, said="\n", check=False)
    assert empty.returncode == 1
    assert "standard input: no API key there" in empty.stderr


@pytest.mark.kafka
def test_topics_are_read_too(kafka_broker: str, home: Path, alert: dict[str, str]) -> None:
    create_topics(kafka_broker, prefix="shown.", partitions=2)
    bus = KafkaBus(kafka_broker)
    for topic, kind in (("alerts", "alerts"), ("decisions", "decisions")):
        for line in (home / f"run/1/{kind}.jsonl").read_bytes().splitlines():
            bus.send(f"shown.{topic}", line, key=json.loads(line)["key"].encode())
    bus.close()
    words = ["show", alert["key"], "-o", "json"]
    told = json.loads(call(*words, "--kafka", kafka_broker, MODELWARDEN_TOPIC_PREFIX="shown.").stdout)
    written = json.loads(call(*words, cwd=home).stdout)
    assert told.pop("source") == f"kafka://{kafka_broker}"
    assert written.pop("source") == "run/1"
    assert told == written


def test_why_not_says_what_a_notice_would_take(home: Path) -> None:
    keys = [json.loads(line) for line in (home / "run/1/keys.jsonl").read_text().splitlines()]
    quiet = next(one for one in keys if one["level"] is None and one["nearest"])
    shown = call("why-not", quiet["key"], cwd=home).stdout
    assert "no alert" in shown
    assert quiet["nearest"][0]["name"] in shown
    told = json.loads(call("why-not", quiet["key"], "-o", "json", cwd=home).stdout)
    assert told[0]["nearest"] == quiet["nearest"]
    unknown = call("why-not", "k0-" + "0" * 32, cwd=home, check=False)
    assert unknown.returncode != 0
    assert "keeps nothing of it" in unknown.stderr
