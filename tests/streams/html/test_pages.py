"""Report pages, in a real browser: nothing in the console, nothing over anything, readable, small."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from sinks.files import FileSink
from streams.cli.progress import Stop
from streams.cli.replayjob import make_job
from streams.findings import Findings
from streams.fleet import KeyStates
from streams.html.element import Markup, tag
from streams.html.page import Facts, findings_page
from streams.html.run import folder_page
from streams.html.scores import evaluation_page
from streams.places import open_writer
from streams.report import BUDGETS, BenignShare, FileOutcome, Outcome, Report
from streams.samples import load_sample
from streams.settings import Settings
from streams.simulate import Plan, Simulation

sys.path.insert(0, str(Path(__file__).parent))
from browser import CHROMIUM, MEASURE, open_browser

if TYPE_CHECKING:
    from detectors.alert import Alert
    from streams.cli.replayjob import ReplayJob
    from streams.replay import Replay
    from streams.whatif import Difference

MOST_BYTES = 2_000_000
SCREENS = {"desktop": (1280, 800), "phone": (390, 844)}
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no Chromium: install it with `make packages`"
)


def campaign(alert: Alert, members: int) -> Alert:
    keys = tuple(f"k0-{number:032x}" for number in range(members - 1))
    fields: dict[str, Any] = {"subject": "campaign", "members": (alert.key, *keys), "families": ("campaign",)}
    return msgspec.structs.replace(alert, **fields)


MILDER = """
version: milder
rules:
  - name: critical-challenge
    maturity: stable
    conditions: {levels: [critical]}
    action: challenge
    duration_s: 3600
"""


def compared(job: ReplayJob, replay: Replay, folder: Path) -> Difference:
    """Compare the default policy with one that acts on less."""
    (folder / "milder.yaml").write_text(MILDER)
    return job.difference(replay, job.read_other(folder / "milder.yaml"), 5.0)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Make one page of every kind, from a real replay."""
    folder = tmp_path_factory.mktemp("pages")
    with open_writer(folder / "events") as file:
        for _, value in Simulation(Plan(events=12_000, seed=2), load_sample()).events():
            file.write(value + b"\n")
    job = make_job((str(folder / "events"),), None, None, "sample", Stop())
    replay, summary = job.run()
    alerts = replay.collected.alerts
    assert len(summary.keys_alerted) > 5
    with FileSink(folder / "run") as sink:
        replay.collected.write(sink)
        job.states(replay).write(sink)
    found = Findings(source="x", alerts=(*alerts, campaign(alerts[0], 9), campaign(alerts[1], 100)))
    facts = Facts(title="<b>", subtitle="&", tiles=(("1", "<i>"),), warning="Partial")
    return {
        "replay": job.page(replay, summary, None),
        "difference": job.page(replay, summary, compared(job, replay, folder)),
        "run": folder_page(folder / "run"),
        "campaigns": findings_page(facts, found, KeyStates()),
        "nothing": findings_page(facts, Findings(source="x"), KeyStates()),
        "evaluation": evaluation_page(evaluation()),
    }


def evaluation() -> Report:
    """Make a report with an alarm, a never and a false alarm."""
    benign = tuple(
        BenignShare(
            victim="digits", persona=persona, budget=budget, keys=120, alarmed=alarmed, share=alarmed / 120
        )
        for persona in (None, "clean")
        for budget, alarmed in zip(BUDGETS, (1, 0, 0), strict=True)
    )
    common: Any = {"victim": "digits", "kind": "attack", "families": ("near_duplicate",)}
    files = tuple(
        FileOutcome(
            **common, source=f"digits__{attack}", attack=attack, budget=budget, keys=1,
            keys_alarmed=int(query is not None), median_alarm_query=query, first_alarm_query_in_all=query,
            first_linked_alarm_query_in_all=None, keys_linked=0, among_customers=None,
        )
        for attack, query in (("jbda", 106), ("knockoff", None))
        for budget in BUDGETS
    )  # fmt: skip
    traces = tuple(
        Outcome(
            **common, source=file.source, number=0, attack=file.attack, persona=None, budget=file.budget,
            queries=900, attack_queries=900, first_alarm_query=file.first_alarm_query_in_all,
            first_alarm_attack_query=None, delay_ms=None, families_ever=(), sentence=None,
        )
        for file in files
    )  # fmt: skip
    return Report(
        mode="calibrated", versions={"modelwarden": "0"}, settings=Settings().engine, budgets={},
        references=(), benign=benign, files=files, false_campaigns=(), model_trials=(),
        false_model_alarms=(), days=(), traces=traces,
    )  # fmt: skip


def test_pages_stand_alone_and_are_small(pages: dict[str, bytes]) -> None:
    for name, page in pages.items():
        assert len(page) < MOST_BYTES, name
        text = page.decode()
        assert "<script" not in text
        assert "http" not in text, f"{name} points out of itself"
        assert "src=" not in text


def test_a_replay_s_page_is_the_same_every_time(pages: dict[str, bytes]) -> None:
    assert evaluation_page(evaluation()) == pages["evaluation"]
    text = pages["replay"].decode()
    for part in ("Evidence against its bounds", "Among all keys", "Extraction budget", "a copy of the model"):
        assert text.count(part) > 5


def test_a_difference_is_told_in_customers_units(pages: dict[str, bytes]) -> None:
    text = pages["difference"].decode()
    for part in ("What would change", "calls after the first action", "treated harder", "By technique"):
        assert part in text
    assert "What would change" not in pages["replay"].decode()


def test_what_a_record_says_cannot_become_html(pages: dict[str, bytes]) -> None:
    assert "<h1>&lt;b&gt;</h1>" in pages["nothing"].decode()
    assert tag("p", "<", title='"') == '<p title="&quot;">&lt;</p>'
    assert tag("p", Markup("<br/>"), hidden=False) == "<p><br/></p>"


@needs_chromium
def test_a_reader_finds_nothing_to_object_to(pages: dict[str, bytes], tmp_path: Path) -> None:
    async def read() -> dict[str, list[str]]:
        objections: dict[str, list[str]] = {}
        async with open_browser() as tab:
            for name, page in pages.items():
                path = tmp_path / f"{name}.html"
                path.write_bytes(page)
                for screen, (width, height) in SCREENS.items():
                    for dark in (False, True):
                        await tab.open(path, width=width, height=height, dark=dark)
                        closed = await tab.evaluate(MEASURE)
                        await tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
                        opened = await tab.evaluate(MEASURE)
                        assert opened["texts"] >= closed["texts"] > 5
                        found = closed["problems"] + opened["problems"] + tab.console
                        objections[f"{name} on a {screen}{', dark' if dark else ''}"] = found
                        tab.console.clear()
        return objections

    objections = asyncio.run(read())
    assert objections
    assert not {place: found for place, found in objections.items() if found}


@needs_chromium
def test_the_measure_sees_what_is_wrong(tmp_path: Path) -> None:
    bad = """<!doctype html><link rel="icon" href="data:,"><body style="background:#fff">
    <p style="position:absolute;top:0">one text over</p><p style="position:absolute;top:2px">another text</p>
    <p style="color:#bbb;margin-top:90px">faint</p><p style="width:3000px;background:#eee">wide</p>
    <p style="font-size:7px">small</p><script>console.error("said"); fetch("http://127.0.0.1:1/x")</script>"""
    (tmp_path / "bad.html").write_text(bad)

    async def read() -> tuple[str, str]:
        async with open_browser() as tab:
            await tab.open(tmp_path / "bad.html", width=1280, height=800)
            return " ".join((await tab.evaluate(MEASURE))["problems"]), " ".join(tab.console)

    problems, console = asyncio.run(read())
    for what in ("overlap", "contrast", "wide on a screen", "too small"):
        assert what in problems
    assert "said" in console
    assert "asked for http://127.0.0.1:1/x" in console
