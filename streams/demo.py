"""The demonstration: recorded attacks among recorded customers, found and stopped, in this process.

A simulated serving layer makes the calls of the sample in order of time and emits an event for each call it
answers; the pipeline reads the events from an in-process bus and publishes alerts, decisions and commands;
the serving layer verifies each command's signature and obeys it. A refused call is not answered and emits
nothing. The clock is the traffic's own.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from sinks.serving.event import encode_event
from streams.traces import KeyTrace, arrival_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from detectors.alert import Alert
    from sinks.records import Command

ATTACK_WORDS = {
    "uniform": "uniform noise",
    "knockoff_rand_kmnist": "Knockoff Nets, foreign letters",
    "jbda": "Jacobian augmentation (JbDA)",
    "trnd_ifgsm": "targeted steps (T-RND)",
    "tramer_ls": "line search on the boundary",
    "square": "Square attack, probing",
    "tramer_online": "random points, online learner",
}
HARMFUL = frozenset({"throttle", "coarsen", "challenge", "suspend", "revoke"})
"""Actions that an honest customer would feel."""
STOPPING = frozenset({"suspend", "revoke"})
STEP_CALLS = 32
"""Calls between two passes of the pipeline: what a serving layer makes while a command is on its way."""


@dataclass(eq=False)
class Customer:
    """One API key as the simulated serving layer knows it."""

    trace: KeyTrace
    answered: int = 0
    refused: int = 0
    throttled: int = 0
    """Answered calls that a throttle in force would have delayed."""
    alerts: list[Alert] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    stopped_at: int | None = None
    """Calls answered when the first stop was obeyed."""

    @property
    def words(self) -> str:
        """What the key really is: the view's caption, which no detector sees."""
        if self.trace.attack is None:
            return f"benign, {self.trace.persona}"
        return ATTACK_WORDS.get(self.trace.attack, self.trace.attack)

    @property
    def is_benign(self) -> bool:
        """Whether the key belongs to a customer."""
        return self.trace.attack is None

    @property
    def is_harmed(self) -> bool:
        """Whether a customer felt a command."""
        return self.is_benign and any(command.action in HARMFUL for command in self.commands)

    def in_force(self, actions: frozenset[str], time_ms: int) -> bool:
        """Tell whether the newest command on the key is one of these and has not expired."""
        newest = self.commands[-1] if self.commands else None
        return newest is not None and newest.action in actions and time_ms < newest.expires_ms


class Sandbox:
    """A simulated serving layer and its customers."""

    def __init__(self, traces: Sequence[KeyTrace], send: Callable[[str, bytes], None]) -> None:
        """Serve these keys; `send` takes a key reference and an encoded event."""
        self.customers = {trace.key_reference: Customer(trace) for trace in traces}
        self.calls_planned = sum(map(len, traces))
        self.keys_planned = len(traces)
        self.calls_made = 0
        self.answered = 0
        self.refused = 0
        self.events_per_s = 0.0
        self._send = send
        self._seen: set[str] = set()

    @property
    def keys_watched(self) -> int:
        """Keys that made a call."""
        return len(self._seen)

    @property
    def keys_alerted(self) -> int:
        """Keys with an alert."""
        return sum(bool(customer.alerts) for customer in self.customers.values())

    @property
    def keys_stopped(self) -> int:
        """Keys that a command stopped."""
        return sum(customer.stopped_at is not None for customer in self.customers.values())

    @property
    def keys_harmed(self) -> int:
        """Customers that felt a command."""
        return sum(customer.is_harmed for customer in self.customers.values())

    def calls(self) -> Iterator[int]:
        """Make every call in order of time; yield the time after each."""
        customers = list(self.customers.values())
        feeds = [customer.trace.events() for customer in customers]
        owner, _ = arrival_order([customer.trace for customer in customers])
        for index in owner.tolist():
            customer, event = customers[index], next(feeds[index])
            self.calls_made += 1
            self._seen.add(event.key)
            if customer.in_force(STOPPING, event.time_ms):
                customer.refused += 1
                self.refused += 1
            else:
                customer.throttled += customer.in_force(frozenset({"throttle"}), event.time_ms)
                customer.answered += 1
                self.answered += 1
                self._send(event.key, encode_event(event))
            yield event.time_ms

    def obey(self, command: Command) -> Customer:
        """Enforce a verified command."""
        customer = self.customers[command.key]
        customer.commands.append(command)
        if command.action in STOPPING and customer.stopped_at is None:
            customer.stopped_at = customer.answered
        return customer


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


def spread_attacks(traces: Sequence[KeyTrace]) -> list[KeyTrace]:
    """Move the attacks' starts among the customers' calls, evenly, keeping the pace within each attack."""
    benign = np.sort(np.concatenate([trace.time_ms for trace in traces if trace.attack is None]))
    attacks = [trace for trace in traces if trace.attack is not None]
    starts = benign[[len(benign) * (i + 1) // (len(attacks) + 1) for i in range(len(attacks))]]
    moved = [
        replace(trace, time_ms=trace.time_ms - trace.time_ms[0] + start)
        for trace, start in zip(attacks, starts, strict=True)
    ]
    return [trace for trace in traces if trace.attack is None] + moved


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
