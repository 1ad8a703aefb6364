"""A simulated serving layer: makes recorded calls in order of time, emits events and obeys signed commands.

A call of a suspended key is refused: it is not answered and emits no event. Calls of a throttled key are
answered and counted. What the calls really are (`Customer.words`) is for the view and never in an event.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from sinks.records import Command
from sinks.serving.event import encode_event
from sinks.signing import verify
from streams.traces import KeyTrace, arrival_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from detectors.alert import Alert

ATTACK_WORDS = {
    "uniform": "uniform noise",
    "knockoff_rand_kmnist": "Knockoff Nets, foreign letters",
    "jbda": "Jacobian augmentation (JbDA)",
    "trnd_ifgsm": "iterated gradient steps (T-RND)",
    "square": "decision-based evasion (Square)",
    "tramer_ls": "line search between noise",
    "tramer_nat": "line search between inputs",
    "tramer_online": "random points, online learner",
}
HARMFUL = frozenset({"throttle", "coarsen", "challenge", "suspend", "revoke"})
"""Actions that an honest customer would feel."""
STOPPING = frozenset({"suspend", "revoke"})


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

    def __init__(
        self,
        traces: Sequence[KeyTrace],
        send: Callable[[str, bytes], None],
        trusted: Mapping[str, Ed25519PublicKey] | None = None,
    ) -> None:
        """Serve these keys.

        Parameters
        ----------
        traces : sequence of KeyTrace
        send : callable
            Takes a key reference and an encoded event.
        trusted : mapping, optional
            Public keys whose commands are obeyed, by key id.
        """
        self.customers = {trace.key_reference: Customer(trace) for trace in traces}
        self.calls_planned = sum(map(len, traces))
        self.keys_planned = len(traces)
        self.calls_made = 0
        self.answered = 0
        self.refused = 0
        self.events_per_s = 0.0
        self._send = send
        self._trusted = dict(trusted or {})
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

    def receive(self, value: bytes) -> tuple[Command, Customer]:
        """Verify a command as it stands on the topic, and obey it.

        Raises
        ------
        sinks.signing.SigningError
            If nobody trusted has signed it; nothing is enforced then.
        """
        command = msgspec.json.decode(value, type=Command)
        verify(command, self._trusted)
        return command, self.obey(command)

    def obey(self, command: Command) -> Customer:
        """Enforce a verified command."""
        customer = self.customers[command.key]
        customer.commands.append(command)
        if command.action in STOPPING and customer.stopped_at is None:
            customer.stopped_at = customer.answered
        return customer


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
