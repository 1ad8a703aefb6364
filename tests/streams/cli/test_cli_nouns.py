"""The nouns that read what was found: keys, alerts, campaigns, decisions, report, top."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import msgspec
import pytest
from click.testing import CliRunner, Result

from sinks.files import FileSink
from streams.bus.memory import MemoryBus
from streams.cli import main
from streams.cli.progress import Stop
from streams.cli.replayjob import make_job
from streams.clock import ManualClock
from streams.findings import TopicFollower, read_run
from streams.outputs import list_outputs
from streams.pipeline import Outputs
from streams.places import open_writer
from streams.samples import load_sample
from streams.settings import Settings
from streams.simulate import Plan, Simulation
from streams.workerstats import WorkerReader

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nouns")
    with open_writer(folder / "events") as file:
        for _, value in Simulation(Plan(events=8000, seed=3), load_sample()).events():
            file.write(value + b"\n")
    job = make_job((str(folder / "events"),), None, None, "sample", Stop())
    replay, _ = job.run()
    with FileSink(folder / "run") as sink:
        replay.collected.write(sink)
        job.states(replay).write(sink)
    return folder / "run"


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def rows(*words: object) -> list[dict[str, object]]:
    result = call(*words, "-o", "ndjson")
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.output.splitlines()]


def test_lists_give_every_record_in_every_format(run: Path) -> None:
    found = read_run(run)
    assert len(found.alerts) > 5
    for noun, records in (("alerts", found.alerts), ("decisions", found.decisions)):
        listed = rows(noun, "list", "--run", run)
        assert listed == json.loads(msgspec.json.encode(records))
        assert json.loads(call(noun, "list", "--run", run, "-o", "json").output) == listed
        table = call(noun, "list", "--run", run).output.splitlines()
        assert table[0].startswith("TIME (UTC)")
        assert len(table) > len(records)


def test_filters_choose(run: Path) -> None:
    everything = rows("alerts", "list", "--run", run)
    critical = rows("alerts", "list", "--run", run, "--level", "critical")
    assert 0 < len(critical) < len(everything)
    assert {alert["level"] for alert in critical} == {"critical"}
    key = str(everything[0]["key"])
    assert {alert["key"] for alert in rows("alerts", "list", "--run", run, "--key", key[:12])} == {key}
    assert rows("alerts", "list", "--run", run, "--limit", 3) == everything[-3:]
    newest = max(int(str(alert["time_ms"])) for alert in everything)
    recent = rows("alerts", "list", "--run", run, "--since", "12h")
    assert recent == [a for a in everything if int(str(a["time_ms"])) >= newest - 12 * 3_600_000]
    assert rows("alerts", "list", "--run", run, "--tenant", "nobody") == []
    assert rows("decisions", "list", "--run", run, "--sent") == []
    assert len(rows("decisions", "list", "--run", run, "--withheld")) == len(read_run(run).decisions)
    assert call("alerts", "list", "--run", run, "--since", "tomorrowish").exit_code == 2


def test_one_record_is_shown_by_the_beginning_of_its_id(run: Path) -> None:
    alert = read_run(run).alerts[0]
    shown = call("alerts", "show", alert.alert_id[:10], "--run", run)
    assert alert.sentence[:40] in " ".join(shown.output.split())
    assert (
        json.loads(call("alerts", "show", alert.alert_id, "--run", run, "-o", "json").output)["key"]
        == alert.key
    )
    decision = read_run(run).decisions[0]
    assert decision.rule in call("decisions", "show", decision.decision_id[:10], "--run", run).output
    for noun in ("alerts", "decisions", "campaigns"):
        missing = call(noun, "show", "ffffffff", "--run", run)
        assert missing.exit_code == 1
        assert "nothing there has this id" in missing.output


def test_keys_are_listed_most_suspect_first(run: Path) -> None:
    alerted = rows("keys", "list", "--run", run)
    order = ["critical", "warning", "notice"]
    levels = [order.index(str(key["level"])) for key in alerted]
    assert levels == sorted(levels)
    everyone = rows("keys", "list", "--run", run, "--all")
    assert len(everyone) > len(alerted)
    assert [key["key"] for key in everyone[: len(alerted)]] == [key["key"] for key in alerted]
    assert rows("keys", "list", "--run", run, "--all", "--limit", 2) == everyone[:2]
    assert call("keys", "list", "--all", "--kafka", "127.0.0.1:1").exit_code == 2


def test_a_report_page_is_written(run: Path, tmp_path: Path) -> None:
    assert call("report", run, "--html", tmp_path / "deep" / "page.html").exit_code == 0
    page = (tmp_path / "deep" / "page.html").read_bytes()
    assert page.startswith(b"<!doctype html>")
    assert CliRunner().invoke(main, ["report", str(run), "--html", "-"]).stdout_bytes == page
    missing = call("report", tmp_path / "none")
    assert missing.exit_code == 1
    assert "no such folder" in missing.output


def test_top_shows_the_same_from_files_and_topics(run: Path) -> None:
    shown = call("top", "--run", run, "--once").output
    found = read_run(run)
    assert found.alerts[-1].key[:17] in shown
    assert "critical" in shown
    assert json.loads(call("top", "--run", run, "-o", "json").output)["keys"] == rows(
        "keys", "list", "--run", run
    )
    settings = Settings()
    topics = ("alerts", "audit", "commands", "dead-letter", "decisions")
    bus = MemoryBus({settings.topic(name): 2 for name in topics})
    follower = TopicFollower(bus, settings)
    assert follower.read().alerts == ()
    outputs = list(list_outputs(Outputs(list(found.alerts), list(found.decisions), list(found.commands))))
    for half in (outputs[:7], outputs[7:]):
        for output in half:
            bus.send(
                settings.topic(output.topic), msgspec.json.encode(output.record), key=output.key.encode()
            )
        now = follower.read()
    assert sorted(now.alerts, key=lambda a: a.alert_id) == sorted(found.alerts, key=lambda a: a.alert_id)


class Worker(BaseHTTPRequestHandler):
    events = 1000

    def do_GET(self) -> None:
        text = (
            f"# TYPE modelwarden_events counter\nmodelwarden_events_total {self.events}\n"
            "# TYPE modelwarden_consumer_lag_records gauge\n"
            'modelwarden_consumer_lag_records{topic="events",partition="0"} 5\n'
            'modelwarden_consumer_lag_records{topic="events",partition="1"} 7\n'
        )
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def worker() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Worker)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_workers_tell_their_rate_and_their_lag(worker: str) -> None:
    clock = ManualClock()
    reader = WorkerReader([worker, "127.0.0.1:1"], clock)
    first = reader.read()
    assert first is not None
    assert (first.workers, first.events, first.lag_records, first.events_per_s) == (1, 1000, 12, None)
    clock.advance(2000)
    Worker.events = 1500
    second = reader.read()
    assert second is not None
    assert second.events_per_s == 250
    assert WorkerReader(["127.0.0.1:1"], clock).read() is None
