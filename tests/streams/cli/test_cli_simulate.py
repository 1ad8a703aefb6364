"""`modelwarden simulate`, as a process: files, pipes, pace and Ctrl-C."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streams.bus.kafka import KafkaBus
from streams.codec import decode_events
from streams.eventfile import read_event_file
from streams.topics import create_topics

MODELWARDEN = Path(sys.executable).with_name("modelwarden")


def simulate(*words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([MODELWARDEN, "simulate", *words], capture_output=True, check=True)


@pytest.mark.parametrize("name", ["events.jsonl", "events.jsonl.gz"])
def test_a_file_decodes_without_a_rejection_and_is_the_same_again(tmp_path: Path, name: str) -> None:
    said = simulate("--events", "3000", "--to", str(tmp_path / name)).stderr.decode()
    assert said.startswith(f"3,000 events to {tmp_path / name} (")
    blocks = read_event_file(tmp_path / name, max_line_bytes=10_000)
    messages = [message for block, _ in blocks for message in block]
    batch, rejections = decode_events(messages, "events")
    assert not rejections
    assert batch is not None
    assert len(batch) == 3000
    simulate("--events", "3000", "--to", str(tmp_path / "again" / name))
    assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_standard_output_is_the_same_as_a_file(tmp_path: Path) -> None:
    simulate("--events", "500", "--to", str(tmp_path / "x.jsonl"))
    assert simulate("--events", "500").stdout == (tmp_path / "x.jsonl").read_bytes()


def test_a_closed_pipe_ends_it_quietly() -> None:
    process = subprocess.Popen([MODELWARDEN, "simulate"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline())["schema"] == 1
    process.stdout.close()
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    assert process.wait(10) == 1


def test_labels_name_every_key(tmp_path: Path) -> None:
    made = simulate("--events", "2000", "--labels", str(tmp_path / "labels.json")).stdout
    labels = json.loads((tmp_path / "labels.json").read_bytes())
    assert {label["key"] for label in labels} == {json.loads(line)["key"] for line in made.splitlines()}
    assert b"attack" not in made


def test_rate_paces_and_ctrl_c_leaves_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "slow.jsonl.gz"
    process = subprocess.Popen(
        [MODELWARDEN, "simulate", "--rate", "200", "--to", path], stderr=subprocess.PIPE, text=True
    )
    time.sleep(2.5)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=10)
    assert process.returncode == 130
    assert said.startswith("Interrupted: ")
    lines = gzip.decompress(path.read_bytes()).splitlines()
    assert all(json.loads(line) for line in lines)
    assert said.split()[1] == f"{len(lines):,}"
    assert 50 < len(lines) < 600


def test_now_puts_events_where_they_are_sent() -> None:
    start_ms = time.time_ns() // 1_000_000
    made = simulate("--events", "400", "--rate", "400", "--start-time", "now").stdout.splitlines()
    last_ms = json.loads(made[-1])["time_ms"]
    assert start_ms <= json.loads(made[0])["time_ms"] <= last_ms <= start_ms + 4000


def test_wrong_options_are_usage_errors() -> None:
    for words in (["--start-time", "now"], ["--start-time", "soon"], ["--events", "0"], ["--speed", "0"]):
        done = subprocess.run([MODELWARDEN, "simulate", *words], capture_output=True, check=False)
        assert done.returncode == 2, words
        assert not done.stdout


@pytest.mark.kafka
def test_a_topic_holds_every_event_by_key(kafka_broker: str) -> None:
    create_topics(kafka_broker, prefix="simulated.", partitions=3)
    place = f"kafka://{kafka_broker}/simulated.events"
    simulate("--events", "2000", "--to", place)
    bus = KafkaBus(kafka_broker)
    messages = [message for batch in bus.read(["simulated.events"]) for message in batch]
    bus.close()
    lines = simulate("--events", "2000").stdout.splitlines()
    assert sorted(m.value or b"" for m in messages) == sorted(lines)
    places: dict[str, set[int]] = {}
    for message in messages:
        key = str(json.loads(message.value or b"")["key"])
        assert message.key == key.encode()
        places.setdefault(key, set()).add(message.partition)
    assert all(len(partitions) == 1 for partitions in places.values())
    assert len(set().union(*places.values())) > 1
