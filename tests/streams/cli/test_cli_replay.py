"""`modelwarden replay`, as a process."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sinks.records import Decision
from streams.topics import create_topics

MODELWARDEN = Path(sys.executable).with_name("modelwarden")
EVENTS = 6000


def call(*words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run([MODELWARDEN, *words], capture_output=True, text=True, check=check)


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("replay") / "events.jsonl.gz"
    call("simulate", "--events", str(EVENTS), "--to", path)
    return path


def test_a_file_is_summed_up_and_written_the_same_twice(events: Path, tmp_path: Path) -> None:
    outputs = [
        call("replay", events, "--references", "sample", "--alerts-to", tmp_path / name, "-o", "json").stdout
        for name in ("one", "other")
    ]
    assert outputs[0] == outputs[1]
    summary = json.loads(outputs[0])
    assert summary["complete"] is True
    assert summary["events"] == EVENTS
    assert summary["rejected"] == {}
    assert summary["mode"] == "observe"
    assert summary["commands"] == {}
    assert summary["keys_alerted"]
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["alerts.jsonl", "decisions.jsonl", "fleet.jsonl", "keys.jsonl", "replay.json"]
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    decisions = (tmp_path / "one" / "decisions.jsonl").read_text().splitlines()
    assert sum(summary["decisions"].values()) == len(decisions)
    assert set(json.loads(decisions[0])) == set(Decision.__struct_fields__)


def test_the_table_says_what_would_be_done(events: Path) -> None:
    said = call("replay", events, "--references", "sample").stdout
    assert f"Events     {EVENTS:,} of" in said
    assert "a replay sends nothing" in said
    assert "critical" in said
    assert "suspend" in said


def test_a_model_without_reference_is_named(events: Path) -> None:
    assert "model mnist has no reference: learned from this traffic" in call("replay", events).stdout


def test_a_pipe_gives_what_the_file_gives(events: Path) -> None:
    made = subprocess.run(
        [MODELWARDEN, "simulate", "--events", str(EVENTS)], capture_output=True, check=True
    ).stdout.decode()
    piped = subprocess.run(
        [MODELWARDEN, "replay", "-", "--references", "sample", "-o", "ndjson"],
        input=made,
        capture_output=True,
        text=True,
        check=True,
    )
    assert piped.stdout == call("replay", events, "--references", "sample", "-o", "ndjson").stdout


def test_ctrl_c_on_a_stalled_pipe_leaves_a_partial_result_that_says_so(events: Path, tmp_path: Path) -> None:
    reader = subprocess.Popen(
        [MODELWARDEN, "replay", "-", "--references", "sample", "--alerts-to", tmp_path / "run", "-o", "json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert reader.stdin is not None
    # More than a pipe holds: once it is written, most of it has been read.
    reader.stdin.write(gzip.decompress(events.read_bytes()))
    reader.stdin.flush()
    reader.send_signal(signal.SIGINT)
    out, said = reader.communicate(timeout=60)
    assert reader.returncode == 130
    assert b"partial" in said
    summary = json.loads(out)
    assert summary["complete"] is False
    assert 0 < summary["events"] <= EVENTS
    assert json.loads((tmp_path / "run" / "replay.json").read_bytes()) == summary


def test_wrong_calls_say_what_is_wrong(events: Path, tmp_path: Path) -> None:
    missing = call("replay", tmp_path / "missing.jsonl", check=False)
    assert missing.returncode == 1
    assert missing.stderr.startswith(f"Error: modelwarden replay: {tmp_path / 'missing.jsonl'}: No such file")
    full = call("replay", events, "--alerts-to", events.parent, check=False)
    assert full.returncode == 1
    assert "the folder is not empty" in full.stderr
    assert call("replay", events, "kafka://127.0.0.1:1/t", check=False).returncode == 2
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: x\nmoed: observe\nrules: []\n")
    wrong = call("replay", events, "--policy", policy, check=False)
    assert wrong.returncode == 1
    assert "moed" in wrong.stderr


def test_an_unreachable_broker_is_named() -> None:
    done = call("replay", "kafka://127.0.0.1:1/modelwarden.events", check=False)
    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.kafka
def test_a_topic_is_replayed_the_same_twice_and_in_part(kafka_broker: str) -> None:
    create_topics(kafka_broker, prefix="replayed.", partitions=2)
    place = f"kafka://{kafka_broker}/replayed.events"
    call("simulate", "--events", str(EVENTS), "--to", place)
    whole = call("replay", place, "--references", "sample", "-o", "json").stdout
    assert whole == call("replay", place, "--references", "sample", "-o", "json").stdout
    summary = json.loads(whole)
    assert summary["events"] == EVENTS
    assert summary["keys_alerted"]
    part = json.loads(call("replay", f"{place}@10..110", "-o", "json").stdout)
    assert part["events"] == 200


DEFAULT = Path(__file__).parents[3] / "deploy" / "policies" / "default"
STRICTER = """
version: stricter
rules:
  - name: warning-suspend
    maturity: stable
    conditions: {levels: [warning, critical]}
    action: suspend
    duration_s: 3600
"""
OBSERVING = """
version: observing
rules:
  - name: watch-all
    maturity: stable
    action: watch
    duration_s: 3600
"""


def test_two_policies_are_compared_in_customers_units_to_the_byte(events: Path, tmp_path: Path) -> None:
    (tmp_path / "new.yaml").write_text(STRICTER)
    (tmp_path / "old.yaml").write_text(OBSERVING)
    policies = ("--policy", tmp_path / "new.yaml", "--against", tmp_path / "old.yaml", "--price", "2.5")
    words = ("replay", events, "--references", "sample", *policies, "-o", "json")
    said = [call(*words).stdout for _ in range(2)]
    assert said[0] == said[1]
    difference = json.loads(said[0])
    assert difference["before"]["keys_acted_on"] == 0
    assert difference["after"]["keys_acted_on"] == len(difference["keys"]) > 0
    assert {key["change"] for key in difference["keys"]} == {"newly acted on"}
    assert {key["after"] for key in difference["keys"]} == {"suspend"}
    calls = sum(key["calls_affected"] for key in difference["keys"])
    assert difference["after"]["calls_affected"] == calls > 0
    assert difference["after"]["cost"] == round(calls * 2.5 / 1000, 2)
    assert sum(tally["newly_acted_on"] for tally in difference["tenants"]) == len(difference["keys"])
    table = call(*words[:-2], "--alerts-to", tmp_path / "run", "--html", tmp_path / "one.html").stdout
    call("report", tmp_path / "run", "--html", tmp_path / "other.html")
    for page in ("one.html", "other.html"):
        assert "newly acted on" in (tmp_path / page).read_text()
    assert "What would change" in table
    assert "newly acted on" in table
    assert "AML.T0024.002" in table


def test_a_policy_against_itself_changes_nothing(events: Path, tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(STRICTER)
    words = ("--policy", tmp_path / "one.yaml", "--against", tmp_path / "one.yaml")
    assert (
        "No customer would be treated otherwise"
        in call("replay", events, *words, "--references", "sample").stdout
    )


def test_an_earlier_run_is_compared_with_and_its_alerts_are_made_again(events: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    call("replay", events, "--references", "sample", "--alerts-to", run, "--html", tmp_path / "page.html")
    assert b"Evidence against its bounds" in (tmp_path / "page.html").read_bytes()
    without = json.loads(call("replay", events, "--against", run, "-o", "json").stdout)
    assert without["before"]["alerts"] > without["after"]["alerts"], "a cold start finds less"
    alert = json.loads((run / "alerts.jsonl").read_text().splitlines()[5])
    again = ("replay", events, "--alert", alert["alert_id"][:12], "--run", run, "-o", "json")
    made = json.loads(call(*again, "--references", "sample").stdout)
    assert made["exact"] is True
    assert made["alert"] == alert
    assert made["events"] == alert["offset"] + 1
    other = call(*again, check=False)
    assert other.returncode == 1, "without the references it is another detection"
    assert json.loads(other.stdout)["differences"]


def test_options_that_do_not_go_together_are_refused(events: Path) -> None:
    refused = call("replay", events, "--price", "3", check=False)
    assert refused.returncode == 2
    assert "--price goes with --against" in refused.stderr
    unknown = call("replay", events, "--alert", "ffff", "--run", events.parent, check=False)
    assert unknown.returncode == 1


def test_a_policy_s_folder_and_the_file_in_it_are_the_same_policy(events: Path) -> None:
    words = ("replay", events, "--references", "sample", "-o", "json")
    pairs = (DEFAULT, DEFAULT / "policy.yaml"), (DEFAULT / "policy.yaml", DEFAULT)
    said = [call(*words, "--policy", one, "--against", other).stdout for one, other in pairs]
    assert json.loads(said[0])["keys"] == []
    assert said[0] == said[1]
