"""The story of a key, from files and from topics."""

from __future__ import annotations

import os
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from sinks.files import FileSink
from streams.bus.memory import MemoryBus
from streams.keystory import FindingsError, KeyStory, newest_run, read_run, read_topics
from streams.keyview import share, show_explained, show_story
from streams.outputs import list_outputs
from streams.pipeline import Outputs, Pipeline, build_pipeline
from streams.replay import Collected, Replay
from streams.samples import load_references, load_sample
from streams.settings import Settings
from streams.simulate import Plan, Simulation

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass
class Run:
    """One replayed run: its folder, what came of it, and its keys."""

    folder: Path
    collected: Collected
    keys: dict[str, int]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("story")
    simulation = Simulation(Plan(events=8000, seed=1), load_sample())
    (folder / "events").write_bytes(b"".join(value + b"\n" for _, value in simulation.events()))

    def build() -> Pipeline:
        return build_pipeline(Settings(), live=False, references=load_references())

    replay = Replay(build)
    replay.files([folder / "events"], 10_000)
    with FileSink(folder / "run") as sink:
        replay.collected.write(sink)
    return Run(folder / "run", replay.collected, {label.key: label.queries for label in simulation.labels()})


def test_every_alert_and_decision_of_a_run_is_in_its_keys_story(run: Run) -> None:
    stories = [read_run(run.folder, key) for key in run.keys]
    alerts = [alert for story in stories for alert in story.alerts]
    decisions = [decision for story in stories for decision in story.decisions]
    assert sorted(a.alert_id for a in alerts) == sorted(a.alert_id for a in run.collected.alerts)
    assert sorted(d.decision_id for d in decisions) == sorted(d.decision_id for d in run.collected.decisions)
    assert len(alerts) > 3


def test_topics_tell_the_same_story_as_files(run: Run) -> None:
    settings = Settings()
    bus = MemoryBus(
        {settings.topic(name): 2 for name in ("alerts", "decisions", "commands", "audit", "dead-letter")}
    )
    outputs = Outputs(run.collected.alerts, run.collected.decisions, run.collected.commands)
    for output in [*list_outputs(outputs), *list_outputs(outputs)]:  # twice: a record may be written again
        bus.send(settings.topic(output.topic), msgspec.json.encode(output.record), key=output.key.encode())
    key = run.collected.alerts[0].key
    told, written = read_topics(bus, settings, key), read_run(run.folder, key)
    assert msgspec.structs.replace(told, source="") == msgspec.structs.replace(written, source="")


def text(show: Callable[[KeyStory, Console], None], story: KeyStory) -> str:
    shown = StringIO()
    show(story, Console(width=140, file=shown))
    return shown.getvalue()


def test_the_explanation_holds_the_evidence(run: Run) -> None:
    story = read_run(run.folder, run.collected.alerts[0].key)
    alert = story.highest
    assert alert is not None
    shown = " ".join(text(show_explained, story).replace("│", " ").split())
    assert " ".join(alert.sentence.split()) in shown
    assert " ".join(alert.would_not_have_fired.split()) in shown
    for feature in alert.features:
        assert (
            f"{feature.name} {feature.observed:.3g} {feature.expected:.3g} {feature.benign_high:.3g}" in shown
        )
    for decision in story.decisions:
        assert decision.rule in shown
        assert f"withheld: {decision.withheld}" in shown
    for wanted in (alert.alert_id, *alert.techniques, alert.reference_version, story.key):
        assert wanted in shown


def test_the_list_has_a_line_for_each_alert(run: Run) -> None:
    story = read_run(run.folder, run.collected.alerts[0].key)
    shown = text(show_story, story)
    for alert in story.alerts:
        assert alert.level in shown
        assert f"{alert.query_count:,}" in shown


def test_a_key_without_alerts_has_an_empty_story(run: Run) -> None:
    alerted = {alert.key for alert in run.collected.alerts}
    story = read_run(run.folder, next(key for key in run.keys if key not in alerted))
    assert story.highest is None
    for show in (show_story, show_explained):
        assert "No alert about this key" in text(show, story)


def test_the_newest_run_is_found(tmp_path: Path) -> None:
    with pytest.raises(FindingsError, match="modelwarden demo"):
        newest_run(tmp_path)
    for number, age in (("1", 10), ("2", 300), ("10", 100)):
        (tmp_path / number).mkdir()
        alerts = tmp_path / number / "alerts.jsonl"
        alerts.touch()
        os.utime(alerts, (2_000_000_000 - age, 2_000_000_000 - age))
    assert newest_run(tmp_path) == tmp_path / "1"


def test_damaged_records_and_missing_runs_are_named(tmp_path: Path) -> None:
    key = "k0-" + "ab" * 16
    with pytest.raises(FindingsError, match="no such folder"):
        read_run(tmp_path / "missing", key)
    with pytest.raises(FindingsError, match=r"no alerts\.jsonl"):
        read_run(tmp_path, key)
    (tmp_path / "alerts.jsonl").write_text('{"key":"other"}\n{"key":"' + key + '"}\n')
    with pytest.raises(FindingsError, match=r"alerts\.jsonl line 2: not a record"):
        read_run(tmp_path, key)


@given(p_value=st.floats(1e-300, 1.0))
def test_shares_are_never_overstated(p_value: float) -> None:
    said = share(p_value)
    if said.startswith("1 in "):
        count = int(said.removeprefix("1 in ").replace(",", ""))
        assert 0.9 / p_value - 1 <= count <= 1 / p_value
    else:
        assert (said == "most" and p_value > 0.5) or (said == "< 1 in 10^9" and p_value <= 1e-9)
