"""Annotations: each arrives once, or is counted as coalesced or dropped, whatever Grafana and kill -9 do."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from aiohttp import web
from alerts import make_alert
from hypothesis import given
from hypothesis import strategies as st
from outage import run_outage

from sinks.grafana.annotation import Annotation, of_alert, of_command, of_policy, summarise
from sinks.grafana.client import GrafanaClient
from sinks.grafana.spool import Spool
from sinks.grafana.writer import BURST, AnnotationWriter, CountReporter
from sinks.metrics import catalogue
from sinks.metrics.instruments import Instruments
from sinks.records import Command
from streams.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from grafana_contract import Contract
    from grafana_double import GrafanaDouble

SEED = 20_261_125


def annotation(number: int, **more: Any) -> Annotation:
    key = f"k0-{number:032x}"
    plain: dict[str, Any] = {
        "annotation_id": f"{number:016x}",
        "kind": "alert",
        "time_ms": 1000 * number,
        "text": "t",
        "tags": (f"key:{key}",),
        "place": f"{key}/m",
    }
    return Annotation(**(plain | more))


class Bench:
    """A writer with a clock that moves by hand."""

    def __init__(self, client: GrafanaClient, path: Path) -> None:
        self.clock = ManualClock(1_700_000_000_000)
        self.instruments = Instruments("annotate")
        self.spool = Spool(path)
        self.reporter = CountReporter(self.spool, self.instruments)
        self.writer = AnnotationWriter(
            client, self.spool, self.instruments, now_ms=self.clock.now_ms, monotonic_s=self.clock.monotonic_s
        )

    def run(self, steps: int = 500) -> float:
        """Step until nothing waits, and return the seconds that took."""
        begin_s = self.clock.monotonic_s()
        for _ in range(steps):
            if not self.spool.depth():
                break
            self.clock.advance(int(1000 * self.writer.step()) + 1)
        return self.clock.monotonic_s() - begin_s

    def total(self, what: str) -> int:
        return sum(n for (name, _), n in self.spool.counts().items() if name == what)


@pytest.fixture
def bench(client: GrafanaClient, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(client, tmp_path / "spool.db")
    yield made
    made.spool.close()


def ids(server: GrafanaDouble) -> list[str]:
    return [tag for a in server.annotations for tag in a["tags"] if tag.startswith("id:")]


def test_bodies_are_what_grafana_documents(contract: Contract, grafana: GrafanaDouble) -> None:
    alert = make_alert(sentence="asks <script>alert(1)</script>", model='"><b>x', e_value_log10=3.0)
    command = Command(
        command_id="a" * 32, action="suspend", key=alert.key, issued_ms=5, expires_ms=90, rule="<i>",
        policy_version="1", alert_id="b" * 32, reason="r",
    )  # fmt: skip
    parts = [annotation(n) for n in range(3)]
    made = [of_alert(alert), of_command(command), of_policy("policy/0/7", 7, 1), summarise(parts)]
    client = GrafanaClient(grafana.url, "token")
    for one in made:
        assert one is not None
        body = one.body()
        assert "<script" not in body["text"]
        assert "<i>" not in body["text"]
        assert len(msgspec.json.encode(body["tags"])) <= 500
        client.call("POST", "/annotations", body)
    client.close()
    assert grafana.violations == []
    assert len(contract.operations) > 400
    assert of_command(command).end_ms == 90
    assert "3 alerts, 3 keys" in summarise(parts).text


def test_notices_and_the_canary_leave_no_mark() -> None:
    assert of_alert(make_alert(level="notice")) is None
    assert of_alert(make_alert(level="critical", key=f"k65535-{1:032x}")) is None
    assert of_alert(make_alert(level="notice", families=("budget",))) is not None


def test_a_few_are_written_one_by_one_and_the_pace_is_kept(bench: Bench, misbehaving: GrafanaDouble) -> None:
    bench.spool.offer([annotation(n) for n in range(BURST)], {("alerts", 0): BURST}, bench.clock.now_ms())
    assert bench.run() < 1, "a burst goes at once"
    bench.spool.offer([annotation(n) for n in range(100, 110)], {}, bench.clock.now_ms())
    assert bench.run() > 1, "then five a second"
    assert len(set(ids(misbehaving))) == len(misbehaving.annotations) == BURST + 10
    bench.reporter.report(bench.clock.now_ms())
    assert bench.instruments.value(catalogue.ANNOTATIONS_WRITTEN, kind="alert") == BURST + 10
    assert bench.spool.positions() == {("alerts", 0): BURST}


def test_a_flood_is_told_by_summaries(bench: Bench, misbehaving: GrafanaDouble) -> None:
    bench.spool.offer([annotation(n) for n in range(3000)], {}, bench.clock.now_ms())
    bench.run()
    assert len(misbehaving.annotations) <= BURST + 7
    told = bench.total("written") + bench.total("coalesced") + bench.total("dropped")
    assert told == bench.total("offered")
    assert (
        bench.spool.counts()["coalesced", "alert"] + bench.spool.counts().get(("written", "alert"), 0) == 3000
    )


def test_the_same_key_again_within_minutes_is_told_once(bench: Bench, misbehaving: GrafanaDouble) -> None:
    again = annotation(1, annotation_id="other", time_ms=61_000)
    later = annotation(1, annotation_id="later", time_ms=400_000)
    bench.spool.offer([annotation(1), again, later], {}, bench.clock.now_ms())
    bench.run()
    assert ids(misbehaving) == [f"id:{1:016x}", "id:later"]
    assert bench.spool.counts()["coalesced", "alert"] == 1


def test_an_answer_that_was_lost_makes_no_second_annotation(bench: Bench, misbehaving: GrafanaDouble) -> None:
    bench.spool.offer([annotation(1)], {}, bench.clock.now_ms())
    misbehaving.delay_s = 1.0
    assert bench.writer.step() > 0
    time.sleep(1.2)
    misbehaving.delay_s = 0.0
    assert len(misbehaving.annotations) == 1, "it landed"
    assert bench.spool.depth() == 1, "and nobody was told"
    bench.run()
    assert len(misbehaving.annotations) == 1
    assert bench.total("written") == 1


@pytest.mark.parametrize(
    ("status", "written", "dropped"),
    [(401, 1, 0), (403, 1, 0), (429, 1, 0), (408, 1, 0), (502, 1, 0), (400, 0, 1), (413, 0, 1)],
)
def test_what_may_pass_is_kept_and_what_never_will_is_dropped(
    bench: Bench, misbehaving: GrafanaDouble, status: int, written: int, dropped: int
) -> None:
    bench.spool.offer([annotation(1)], {}, bench.clock.now_ms())
    misbehaving.script = [lambda _: web.Response(status=status, text="{}")] * 3
    bench.run()
    assert (bench.total("written"), bench.total("dropped")) == (written, dropped)
    assert len(misbehaving.annotations) == written


def test_waits_grow_to_a_minute_and_honour_retry_after(bench: Bench, misbehaving: GrafanaDouble) -> None:
    bench.spool.offer([annotation(1)], {}, bench.clock.now_ms())
    misbehaving.always = lambda _: web.Response(status=503, text="{}")
    waits = []
    for _ in range(12):
        waits.append(bench.writer.step())
        bench.clock.advance(60_000)
    assert waits[0] < 1
    assert 30 <= waits[-1] <= 60
    assert bench.instruments.value(catalogue.GRAFANA_UP) == 0
    misbehaving.always = lambda _: web.Response(status=429, text="{}", headers={"Retry-After": "77"})
    assert bench.writer.step() == 77
    assert bench.instruments.value(catalogue.GRAFANA_FAILURES, cause="throttled") == 1


def test_a_full_or_old_spool_drops_the_oldest_and_counts(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s.db", most=5, oldest_ms=1000)
    spool.offer([annotation(n) for n in range(8)], {}, 0)
    assert spool.depth() == 5
    assert spool.counts()["dropped", "spool_full"] == 3
    spool.offer([], {}, 1001)
    assert spool.depth() == 0
    assert spool.counts()["dropped", "too_old"] == 5
    spool.close()


@given(st.lists(st.integers(0, 30), max_size=60), st.integers(1, 20))
def test_every_annotation_is_accounted_for(numbers: list[int], most: int) -> None:
    spool = Spool.__new__(Spool)
    Spool.__init__(spool, _Memory(), most=most)  # type: ignore[arg-type]
    for number in numbers:
        spool.offer([annotation(number, annotation_id=str(number % 7))], {}, 0)
        if number % 5 == 0:
            spool.coalesce(above=3, at_once=4, now_ms=0)
        waiting = spool.next()
        if waiting is not None and number % 3 == 0:
            spool.finish(waiting, "refused" if number % 2 else None)
    totals: Counter[str] = Counter()
    for (what, _), n in spool.counts().items():
        totals[what] += n
    assert totals["offered"] == totals["written"] + totals["coalesced"] + totals["dropped"] + spool.depth()
    spool.close()


class _Memory:
    """A path to a database in memory."""

    parent = type("P", (), {"mkdir": staticmethod(lambda **_: None)})

    def __fspath__(self) -> str:
        return ":memory:"


@pytest.mark.kafka
def test_an_outage_with_kill_9_loses_none_and_doubles_none(kafka_broker: str, tmp_path: Path) -> None:
    """The short form; the long one is `python tests/bench/annotation_outage.py`."""
    report = run_outage(kafka_broker, tmp_path, annotations=2000, outage_s=8.0, kills=3)
    assert report.doubled == 0
    assert report.unaccounted == 0
    assert report.offered == 2000
    assert report.written + report.summaries > 0
