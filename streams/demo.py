"""The demonstration: recorded attacks among recorded customers, found and stopped, in this process.

A simulated serving layer (`streams.sandbox`) emits an event for each call it answers; the pipeline reads the
events from an in-process bus and publishes alerts, decisions and commands; the serving layer verifies each
command's signature and obeys it. The clock is the traffic's own.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Protocol

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from detectors.engine import Engine
from sinks.files import FileSink
from sinks.policy import PolicyEngine
from sinks.policyfile import load_policy
from sinks.signing import Signer
from streams.bus.memory import MemoryBus
from streams.deadletter import dead_letter
from streams.fleet import Historian, survey
from streams.pipeline import Pipeline
from streams.places import TopicPlace
from streams.replay import Replay
from streams.report import versions
from streams.samples import load_references, load_sample
from streams.sandbox import STOPPING, Customer, Sandbox, spread_attacks
from streams.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from detectors.alert import Alert
    from sinks.records import Command
    from streams.bus.base import Message
    from streams.clock import Clock

STEP_CALLS = 32
"""Calls between two passes of the pipeline: what a serving layer makes while a command is on its way."""


class AttackResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one attack."""

    name: str
    attack: str
    model: str
    key: str
    queries_wanted: int
    queries_answered: int
    alerted_at_query: int | None
    stopped_at_query: int | None
    saved_share: float
    """Of the wanted queries, refused."""
    families: tuple[str, ...]
    sentence: str | None
    """Of the alert that led to the stop, or of the last one."""


class DemoResult(msgspec.Struct, frozen=True, kw_only=True):
    """What the demonstration showed."""

    schema: int = 1
    events: int
    calls_refused: int
    seconds: float
    attacks: tuple[AttackResult, ...]
    benign_watched: int
    benign_noticed: int
    benign_harmed: int
    files: dict[str, str]
    next_commands: tuple[str, ...]


def attack_results(sandbox: Sandbox) -> tuple[AttackResult, ...]:
    """Sum up every attack, in order of first call."""
    attackers = [customer for customer in sandbox.customers.values() if not customer.is_benign]
    twice = {name for name, count in Counter(customer.words for customer in attackers).items() if count > 1}
    attackers.sort(key=lambda customer: int(customer.trace.time_ms[0]))
    return tuple(_attack_result(customer, named_twice=customer.words in twice) for customer in attackers)


def _attack_result(customer: Customer, *, named_twice: bool) -> AttackResult:
    trace = customer.trace
    stop = next((command for command in customer.commands if command.action in STOPPING), None)
    told = next((a for a in customer.alerts if stop is not None and a.alert_id == stop.alert_id), None)
    told = told or (customer.alerts[-1] if customer.alerts else None)
    return AttackResult(
        name=f"{customer.words} on {trace.victim}" if named_twice else customer.words,
        attack=str(trace.attack),
        model=trace.victim,
        key=trace.key_reference,
        queries_wanted=len(trace),
        queries_answered=customer.answered,
        alerted_at_query=customer.alerts[0].query_count if customer.alerts else None,
        stopped_at_query=customer.stopped_at,
        saved_share=round(customer.refused / len(trace), 4),
        families=() if told is None else told.families,
        sentence=None if told is None else told.sentence,
    )


def next_run_folder(parent: Path) -> Path:
    """Make the folder of the next run: 1, 2, 3 and so on below `parent`."""
    parent.mkdir(parents=True, exist_ok=True)
    number = 1 + max((int(path.name) for path in parent.iterdir() if path.name.isdecimal()), default=0)
    folder = parent / str(number)
    folder.mkdir()
    return folder


class View(Protocol):
    """What is told as the demonstration runs."""

    def moved(self, time_ms: int) -> None:
        """Note that calls were made, up to an event time."""

    def alert(self, alert: Alert, customer: Customer) -> None:
        """Show an alert."""

    def command(self, command: Command, customer: Customer) -> None:
        """Show a command that the serving layer obeyed."""


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What was run, so that it can be run again."""

    schema: int = 1
    started_ms: int
    versions: dict[str, str]
    settings: Settings
    policy_version: str
    references: dict[str, str]
    """Content hash by model."""
    result: DemoResult


class Demo:
    """One run: sandbox, bus, pipeline and files.

    Parameters
    ----------
    folder : Path
        Where alerts, decisions, commands and the run's record are written.
    clock : Clock
        For the pace and the rate shown; detection sees the traffic's own time only.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.folder = folder
        self._clock = clock
        self._sink = FileSink(folder)
        self._bus = MemoryBus({"events": 1, "commands": 1})
        self._places = {("events", 0): 0, ("commands", 0): 0}
        self._settings = Settings()
        signer = Signer(Ed25519PrivateKey.generate())
        self._policy = load_policy(None, mode="enforce")
        self._references = load_references()
        engine = Engine(self._settings.engine, self._references)
        self._pipeline = Pipeline(engine, PolicyEngine(self._policy, signer), self._settings)
        self.sandbox = Sandbox(
            spread_attacks(load_sample()),
            lambda key, value: self._bus.send("events", value, key=key.encode()),
            {signer.key_id: signer.public_key},
        )

    def run(self, view: View, events_per_s: float) -> DemoResult:
        """Make every call, tell the view, and write the record.

        Parameters
        ----------
        view : View
        events_per_s : float
            Pace; 0 for as fast as possible.
        """
        sandbox, start_s = self.sandbox, self._clock.monotonic_s()
        self._started_ms = self._clock.now_ms()
        time_ms = 0
        for time_ms in sandbox.calls():
            if sandbox.calls_made % STEP_CALLS == 0:
                self._pass(view)
                elapsed_s = self._clock.monotonic_s() - start_s
                sandbox.events_per_s = sandbox.answered / max(elapsed_s, 1e-3)
                view.moved(time_ms)
                if events_per_s:
                    time.sleep(max(0.0, sandbox.calls_made / events_per_s - elapsed_s))
        self._pass(view)
        view.moved(time_ms)
        return self._finish(self._clock.monotonic_s() - start_s)

    def _pass(self, view: View) -> None:
        """Let the pipeline catch up, publish what it found, and let the serving layer obey."""
        outputs = self._pipeline.process(self._read("events"))
        for alert in outputs.alerts:
            customer = self.sandbox.customers[alert.key]
            if alert.subject == "key":
                customer.alerts.append(alert)
            view.alert(alert, customer)
        self._sink.write("alerts", outputs.alerts)
        self._sink.write("decisions", outputs.decisions)
        self._sink.write("commands", outputs.commands)
        self._sink.write("audit", outputs.audit)
        self._sink.write("dead-letters", map(dead_letter, outputs.rejections))
        for command in outputs.commands:
            self._bus.send("commands", msgspec.json.encode(command), key=command.key.encode())
        for message in self._read("commands"):
            view.command(*self.sandbox.receive(message.value or b""))

    def _read(self, topic: str) -> list[Message]:
        """Take what is new on a topic."""
        messages = [m for part in self._bus.read([topic], start=self._places) for m in part]
        self._places[topic, 0] += len(messages)
        return messages

    def _write_states(self) -> None:
        """Write how keys stand and how the found ones came there: the same events, watched closely."""
        found = {
            (alert.key, alert.model): None for c in self.sandbox.customers.values() for alert in c.alerts
        }
        historian = Historian(found)
        closer = Replay(self._pipeline_of_history, historian=historian)
        closer.topic(self._bus, TopicPlace("memory", "events"))
        survey([self._pipeline.engine], historian).write(self._sink)

    def _pipeline_of_history(self) -> Pipeline:
        engine = Engine(self._settings.engine, self._references)
        return Pipeline(engine, PolicyEngine(load_policy(None)), self._settings)

    def _finish(self, seconds: float) -> DemoResult:
        """Close the files, sum up and write the record."""
        self._write_states()
        self._sink.close()
        benign = [customer for customer in self.sandbox.customers.values() if customer.is_benign]
        written = {kind: str(self.folder / f"{kind}.jsonl") for kind in ("alerts", "decisions", "commands")}
        record_path = self.folder / "run.json"
        attacks = attack_results(self.sandbox)
        result = DemoResult(
            events=self.sandbox.answered,
            calls_refused=self.sandbox.refused,
            seconds=round(seconds, 3),
            attacks=attacks,
            benign_watched=sum(customer.answered > 0 for customer in benign),
            benign_noticed=sum(bool(customer.alerts) for customer in benign),
            benign_harmed=self.sandbox.keys_harmed,
            files=written | {"record": str(record_path)},
            next_commands=(
                f"modelwarden report {self.folder}                (all of it as one page for a browser)",
                "modelwarden simulate | modelwarden replay - --references sample   (traffic of your own)",
                "modelwarden kafka up                   (then `modelwarden worker`: on a real broker)",
                "modelwarden evaluate TRACES            (the scoreboard, on recordings with labels)",
            ),
        )
        record = RunRecord(
            started_ms=self._started_ms,
            versions=versions(),
            settings=self._settings,
            policy_version=self._policy.policy_version,
            references={model: reference.version for model, reference in self._references.items()},
            result=result,
        )
        record_path.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
        return result
