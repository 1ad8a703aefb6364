"""On real servers: a theft pages the right people, what breaks is told by its own alert, health is silent.

One course of events in a deployment whose rules are 30 times as quick as the shipped ones (`scaled.py`). The
10-minute form of the healthy run, under the shipped durations, is `python tests/bench/healthy_run.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import pytest
from stack import Stack
from test_dashboards import BOARDS, queries

from sinks.serving.event import encode_event
from streams.samples import load_sample

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from streams.traces import KeyTrace

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(600)]

DIVISOR = 30.0
HEALTHY_S = 12.0
PAGE_S = 60.0
TROUBLES = {
    "DeadLetters": "tickets",
    "GrafanaDown": "pager-platform",
    "CanaryMissed": "pager-security",
    "LagHigh": "pager-platform",
}


@pytest.fixture
def stack(kafka_broker: str, tmp_path: Path) -> Iterator[Stack]:
    missing = [name for name in ("prometheus", "prometheus-alertmanager") if shutil.which(name) is None]
    if missing:
        said = (
            f"no {' and no '.join(missing)} on the PATH: nothing is tried on real servers (`make packages`)"
        )
        pytest.fail(said) if os.environ.get("CI") else pytest.skip(said)
    made = Stack(tmp_path, kafka_broker, DIVISOR)
    try:
        made.start()
        yield made
    finally:
        made.stop()


class Traffic:
    """Honest keys of the sample, over and over, at a pace, in a thread of its own."""

    def __init__(self, stack: Stack, traces: list[KeyTrace], pace: float) -> None:
        self._stack = stack
        self._events = [(t.key_reference, encode_event(e)) for t in traces for e in t.events()]
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._send, args=(pace,), daemon=True)
        self._thread.start()

    def _send(self, pace: float) -> None:
        at = 0
        while not self._stopped.wait(0.1):
            for _ in range(int(pace / 10)):
                key, value = self._events[at % len(self._events)]
                self._stack.send("events", value, key)
                at += 1

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()


class Slowed:
    """A worker that gets the processor only now and then: stopped most of the time."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._slow, daemon=True)
        self._thread.start()

    def _slow(self) -> None:
        while not self._stopped.is_set():
            os.kill(self._pid, signal.SIGSTOP)
            self._stopped.wait(0.95)
            os.kill(self._pid, signal.SIGCONT)
            self._stopped.wait(0.04)

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()
        os.kill(self._pid, signal.SIGCONT)


def send_trace(stack: Stack, trace: KeyTrace, count: int) -> str:
    for event in list(trace.events())[:count]:
        stack.send("events", encode_event(event), event.key)
    stack.bus.flush()
    return trace.key_reference


def test_the_healthy_are_left_alone_a_theft_pages_and_every_trouble_is_told(stack: Stack) -> None:
    sample = load_sample()
    honest = [t for t in sample if t.attack is None and t.victim == "mnist"][:20]
    theft = next(t for t in sample if t.attack == "uniform" and t.victim == "mnist")
    traffic = Traffic(stack, honest, 200)
    check_healthy(stack)
    check_theft(stack, theft)
    check_breaker(stack)
    check_campaign(stack, next(t for t in sample if t.attack == "jbda" and t.victim == "mnist"))
    check_troubles(stack, honest)
    check_panels(stack)
    check_worker_killed(stack)
    traffic.stop()


def check_healthy(stack: Stack) -> None:
    stack.wait(lambda: stack.query("modelwarden_canary_rounds_total{outcome='caught'} > 0"), 60, "no canary")
    time.sleep(HEALTHY_S)
    called = {n.labels["alertname"] for n in stack.notifications if n.receiver != "heartbeat"}
    assert called == set(), f"nobody may be called while all is well\n{stack.state()}"
    assert stack.told("Watchdog"), "the heartbeat is what shows that a call would arrive"
    assert stack.query("sum(modelwarden_events_total) > 0")
    for name in ("worker", "annotate", "canary"):
        assert stack.probe(name, "/livez")
        assert stack.probe(name, "/readyz")


def check_breaker(stack: Stack) -> None:
    """The policy would suspend the thief; its breaker lets nobody be, and pages until a person resets it."""
    stack.wait(lambda: stack.told("BreakerTripped"), PAGE_S, "the breaker did not page")
    assert {n.receiver for n in stack.told("BreakerTripped")} == {"pager-security"}
    stack.call("policy", "reset-breaker", "--reason", "looked at it")
    stack.wait(lambda: stack.told("BreakerTripped", "resolved"), PAGE_S, "the breaker was not closed")


def check_theft(stack: Stack, theft: KeyTrace) -> None:
    begin_s = time.monotonic()
    key = send_trace(stack, theft, 300)
    stack.wait(lambda: stack.told("KeyExtraction"), PAGE_S, "the theft did not page")
    (page, *_) = stack.told("KeyExtraction")
    assert page.time_s - begin_s < PAGE_S
    assert page.receiver == "pager-security"
    expected = {
        "key_ref": key,
        "model": "mnist",
        "severity": "page",
        "area": "security",
        "team": "ml-security",
    }
    assert {name: page.labels.get(name) for name in expected} == expected
    assert page.annotations["summary"] == f"Key {key} is copying mnist: critical"
    assert page.annotations["dashboard_url"].endswith(key)
    marks = stack.grafana.annotations
    stack.wait(lambda: any(f"key:{key}" in mark["tags"] for mark in list(marks)), 30, "no mark in Grafana")


def check_campaign(stack: Stack, theft: KeyTrace) -> None:
    """The same theft over six keys is told as one."""
    keys = [f"k0-{number:032x}" for number in range(1, 7)]
    for number, event in enumerate(theft.events()):
        key = keys[number % len(keys)]
        value = encode_event(msgspec.structs.replace(event, key=key))
        stack.bus.send(f"{stack.prefix}events", value, key=key.encode(), partition=0)
    stack.bus.flush()
    stack.wait(lambda: stack.told("CampaignFound"), PAGE_S, "the campaign did not page")
    assert stack.told("CampaignFound")[0].labels["key_ref"] in keys


def check_troubles(stack: Stack, honest: list[KeyTrace]) -> None:
    slowed = Slowed(stack.processes["worker"].pid)
    flood = Traffic(stack, honest, 12_000)
    (stack.folder / "lost.json").write_text(
        json.dumps([{"targets": [f"127.0.0.1:{stack.ports['lost-canary']}"], "labels": {}}])
    )
    stack.run("lost-canary", "canary", "--model", "a-model-without-reference", "--every", "5")
    garbage = threading.Event()

    def litter() -> None:
        while not garbage.wait(0.1):
            stack.send("events", b"{", "k0-litter")

    threading.Thread(target=litter, daemon=True).start()
    stack.grafana.__exit__()
    for alert, receiver in TROUBLES.items():
        stack.wait(partial(stack.told, alert), 90, f"{alert} did not fire")
        assert {n.receiver for n in stack.told(alert)} == {receiver}, alert
    slowed.stop()
    flood.stop()
    garbage.set()
    stack.grafana.restart()
    lost = stack.processes.pop("lost-canary")
    lost.kill()
    lost.wait()
    (stack.folder / "lost.json").write_text("[]")
    for alert in TROUBLES:
        stack.wait(partial(stack.told, alert, "resolved"), 90, f"{alert} did not resolve")


def check_panels(stack: Stack) -> None:
    """Every query of every panel is answered with data."""
    (flagged, *_) = [n.labels["key_ref"] for n in stack.told("KeyExtraction")]
    empty = []
    for uid, board in BOARDS.items():
        for expr in queries(board):
            asked = expr.replace("$__rate_interval", "30s").replace("$key_ref", flagged)
            if not stack.query(asked, range_s=120, step_s=2):
                empty.append(f"{uid}: {expr}")
    assert empty == []


def check_worker_killed(stack: Stack) -> None:
    before = len(stack.told("WorkerDown", "resolved"))
    stack.processes["worker"].kill()
    stack.processes["worker"].wait()
    stack.wait(lambda: stack.told("WorkerDown"), 60, "a killed worker did not page")
    assert stack.told("WorkerDown")[-1].receiver == "pager-platform"
    stack.run("worker", "worker")
    stack.wait(lambda: len(stack.told("WorkerDown", "resolved")) > before, 90, "it did not resolve")
