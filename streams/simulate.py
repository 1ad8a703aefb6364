"""Simulated traffic: recorded keys, benign and hostile, under new references and at new times.

Nothing here is made up but who calls when: the sketches and answers are those of the sample
(`streams.samples`). The same plan gives the same events, to the byte, on every machine.

The time in an event (`start_ms`, `speed`) has nothing to do with how fast events are sent; that is the
caller's business.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from sinks.serving.event import encode_event
from sinks.serving.keyref import key_reference
from streams.errors import ModelwardenError
from streams.traces import WEEK_START_MS, KeyTrace, arrival_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WEEK_MS = 7 * 86_400_000
MAX_EVENTS = 10_000_000
ATTACK_SHARE = 0.25
"""Unless benign keys are counted out, attacks make at most this share of the events."""


class SimulationError(ModelwardenError):
    """A plan asks for traffic that the sample does not hold."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What traffic to make."""

    events: int
    """At most this many; fewer only if `benign_keys` is given and too small."""
    personas: tuple[str, ...] = ()
    """Kinds of benign customers; empty: all."""
    attacks: tuple[str, ...] | None = None
    """Names of attacks; None: all, empty: none."""
    benign_keys: int | None = None
    """None: as many as it takes to make the events."""
    seed: int = 0
    start_ms: int = WEEK_START_MS
    """Time of the first event."""
    speed: float = 1.0
    """Recorded time is divided by this."""
    secret: bytes | None = None
    """For the key references; None: a throw-away one, made from the seed."""
    epoch: int = 0


@dataclass(frozen=True, eq=False)
class SimulatedKey:
    """One API key of the simulation; what it really is never reaches an event."""

    reference: str
    trace: KeyTrace


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """What a simulated key really is: the answer to what detection is asked."""

    key: str
    model: str
    kind: str
    """`benign` or `attack`."""
    name: str
    """Persona or attack."""
    queries: int
    first_ms: int


class Simulation:
    """Traffic according to a plan.

    Parameters
    ----------
    plan : Plan
    sample : sequence of KeyTrace
        Recorded keys, from `streams.samples.load_sample`.

    Raises
    ------
    SimulationError
        If the plan names a persona or an attack that the sample does not hold, or no traffic at all.
    """

    def __init__(self, plan: Plan, sample: Sequence[KeyTrace]) -> None:
        self._plan = plan
        random = np.random.default_rng(plan.seed)
        benign = _choose(sample, "persona", plan.personas or None)
        attacks = _choose(sample, "attack", plan.attacks)
        if not benign and not attacks:
            raise SimulationError(
                "--attacks", "no key is left to make traffic", "Name a persona or an attack"
            )
        if plan.benign_keys is None and benign:
            attacks = _cut_to_share(attacks, int(plan.events * ATTACK_SHARE))
        traces = _benign_traces(plan, benign, plan.events - sum(map(len, attacks)), random)
        traces += _attack_traces(plan, traces, attacks)
        secret = plan.secret or blake2b(b"%d" % plan.seed, digest_size=32, person=b"mw-simulate").digest()
        self.keys = [
            SimulatedKey(key_reference(f"simulated-{plan.seed}-{number}", secret, plan.epoch), trace)
            for number, trace in enumerate(_retime(plan, traces))
        ]
        owner, _ = arrival_order([key.trace for key in self.keys])
        self._owner = owner[: plan.events]

    def __len__(self) -> int:
        """Count the events."""
        return len(self._owner)

    @property
    def duration_ms(self) -> int:
        """Event time between the first and the last event."""
        counts = np.bincount(self._owner, minlength=len(self.keys))
        last = [int(key.trace.time_ms[n - 1]) for key, n in zip(self.keys, counts, strict=True) if n]
        return max(last) - self._plan.start_ms

    def events(self) -> Iterator[tuple[str, bytes]]:
        """Yield key reference and encoded event, in order of time."""
        feeds = [key.trace.events(key.reference) for key in self.keys]
        for index in self._owner.tolist():
            event = next(feeds[index])
            yield event.key, encode_event(event)

    def labels(self) -> list[Label]:
        """List the keys that make an event, in order of first call."""
        counts = np.bincount(self._owner, minlength=len(self.keys)).tolist()
        labels = [
            Label(
                key=key.reference,
                model=key.trace.victim,
                kind="benign" if key.trace.attack is None else "attack",
                name=str(key.trace.attack or key.trace.persona),
                queries=count,
                first_ms=int(key.trace.time_ms[0]),
            )
            for key, count in zip(self.keys, counts, strict=True)
            if count
        ]
        return sorted(labels, key=lambda label: (label.first_ms, label.key))


def names(sample: Sequence[KeyTrace], field: str) -> list[str]:
    """List the personas or the attacks of a sample."""
    return sorted({str(name) for trace in sample if (name := getattr(trace, field)) is not None})


def _choose(sample: Sequence[KeyTrace], field: str, wanted: tuple[str, ...] | None) -> list[KeyTrace]:
    known = names(sample, field)
    for name in wanted or ():
        if name not in known:
            raise SimulationError(f"--{field}s", f"no {field} {name!r}", f"Choose from {', '.join(known)}")
    chosen = known if wanted is None else wanted
    return [trace for trace in sample if getattr(trace, field) in chosen]


def _cut_to_share(attacks: Sequence[KeyTrace], queries: int) -> list[KeyTrace]:
    """Cut attacks to equal numbers of queries, so many in all; leave out those without room for one."""
    chosen = attacks[: max(queries, 1)]
    return [trace.take(slice(max(queries // len(chosen), 1))) for trace in chosen]


def _benign_traces(
    plan: Plan, benign: Sequence[KeyTrace], wanted: int, random: np.random.Generator
) -> list[KeyTrace]:
    """Draw benign keys without repetition as long as there are others, then again at other times."""
    drawn: list[KeyTrace] = []
    events = 0
    while len(drawn) < plan.benign_keys if plan.benign_keys is not None else events < wanted:
        if not benign:
            break
        is_repeated = bool(drawn)
        for index in random.permutation(len(benign)).tolist():
            trace = _shift(benign[index], random) if is_repeated else benign[index]
            drawn.append(trace)
            events += len(trace)
            if len(drawn) == plan.benign_keys or (plan.benign_keys is None and events >= wanted):
                break
    return drawn


def _shift(trace: KeyTrace, random: np.random.Generator) -> KeyTrace:
    """Move a key to another time of the week, all of its calls alike."""
    first = WEEK_START_MS - int(trace.time_ms[0])
    last = first + max(WEEK_MS - int(trace.time_ms[-1] - trace.time_ms[0]), 1)
    return replace(trace, time_ms=trace.time_ms + int(random.integers(first, last)))


def _attack_traces(plan: Plan, benign: Sequence[KeyTrace], attacks: Sequence[KeyTrace]) -> list[KeyTrace]:
    """Spread the starts of the attacks evenly over those calls of the customers that there is room for."""
    if not attacks:
        return []
    if not benign:
        return list(attacks)
    calls = np.sort(np.concatenate([trace.time_ms for trace in benign]))
    calls = calls[: max(plan.events - sum(map(len, attacks)), 1)]
    starts = calls[[len(calls) * (i + 1) // (len(attacks) + 1) for i in range(len(attacks))]]
    return [
        replace(trace, time_ms=trace.time_ms - trace.time_ms[0] + start)
        for trace, start in zip(attacks, starts.tolist(), strict=True)
    ]


def _retime(plan: Plan, traces: Sequence[KeyTrace]) -> Iterator[KeyTrace]:
    first = min(int(trace.time_ms[0]) for trace in traces)
    for trace in traces:
        since_ms = ((trace.time_ms - first) / plan.speed).astype(np.int64)
        yield replace(trace, time_ms=plan.start_ms + since_ms)
