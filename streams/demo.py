"""The demonstration: recorded attacks among recorded customers, found and stopped, in this process.

A simulated serving layer (`streams.sandbox`) emits an event for each call it answers; the pipeline reads the
events from an in-process bus and publishes alerts, decisions and commands; the serving layer verifies each
command's signature and obeys it. The clock is the traffic's own.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from streams.sandbox import STOPPING, Customer, Sandbox

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
