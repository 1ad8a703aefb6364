"""The commands in force, followed in a thread of its own, so that a lookup is a dict read.

Who calls it: a serving process, once. `lookup` never blocks and never raises. The commands topic is read from
its beginning: it is compacted, so a process that starts again knows what stands as soon as it has caught up
(`is_ready`). While the brokers are away the table is kept; which actions then go on, and which lapse, is the
operator's choice (`fail_open`).
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol

from sinks.errors import SigningError
from sinks.kafkasecurity import PLAINTEXT, KafkaSecurity
from sinks.records import Acknowledgement
from sinks.serving.clock import now_ms
from sinks.serving.follower import TopicFollower

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from sinks.allowlist import Allowlist
    from sinks.records import Command
    from sinks.serving.commands import CommandTable, Standing, Verdict
    from sinks.serving.settings import WatchedKeys

DEFAULT_STALE_S = 30.0
DEFAULT_FAIL_OPEN = frozenset({"throttle", "coarsen", "watermark", "challenge"})
"""What lapses while the brokers are away: an undo could not be heard, and these rest on weaker evidence."""
YIELD_S = 0.000_05
"""Pause after a record that was refused, so that a flood of forged commands leaves the interpreter to the
requests: checking a signature holds it for a tenth of a millisecond."""


class Acknowledge(Protocol):
    """Takes an acknowledgement; never blocks and never raises."""

    def __call__(self, acknowledgement: Acknowledgement, /) -> None:
        """Send it some time."""


class Enforcer:
    """What one serving process enforces.

    Parameters
    ----------
    table : CommandTable
        Decides what is obeyed.
    kafka : str
        Bootstrap servers.
    topics : tuple of str
        The commands and the allowlist topic, with their prefix.
    name : str
        Of this serving process, in its acknowledgements; the same after a restart.
    acknowledge : callable
        Takes each acknowledgement.
    fail_open : collection of str
        Actions that lapse when the brokers have not answered for `stale_s`; the others go on to their end.
    stale_s : float
    allowlist : Allowlist, optional
        The table's own; kept up to date.
    keys : WatchedKeys, optional
        Looked at now and then; the table goes on with what is trusted now.
    security : KafkaSecurity
        How the brokers are reached.
    clock : callable
        Milliseconds since 1970.
    """

    def __init__(  # noqa: PLR0913 - each is one thing that an operator decides
        self,
        table: CommandTable,
        *,
        kafka: str,
        topics: tuple[str, str],
        name: str,
        acknowledge: Acknowledge,
        fail_open: Collection[str] = DEFAULT_FAIL_OPEN,
        stale_s: float = DEFAULT_STALE_S,
        allowlist: Allowlist | None = None,
        keys: WatchedKeys | None = None,
        security: KafkaSecurity = PLAINTEXT,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        self.table = table
        self.name = name
        self.counts: Counter[str] = Counter()
        """Records by outcome: `enforced`, `repeated`, `expired`, each `Refusal`; commands `lifted`; of the
        allowlist, `allowed` and `allow_refused`."""
        self.follower = TopicFollower(kafka, topics, self._take, self._maintain, security=security)
        self._commands_topic = topics[0]
        self._allowlist = allowlist
        self._keys = keys
        self._acknowledge = acknowledge
        self._fail_open = frozenset(fail_open)
        self._stale_s = stale_s
        self._clock = clock

    @property
    def is_ready(self) -> bool:
        """Whether the commands that stood at the start have been read."""
        return self.follower.is_ready

    @property
    def is_stale(self) -> bool:
        """Whether the brokers have not answered for too long to trust what stands."""
        return self.follower.contact_age_s > self._stale_s

    def lookup(self, key: str, model: str | None = None, tenant: str | None = None) -> tuple[Standing, ...]:
        """Return what is in force for a call, the strongest first; for most calls nothing."""
        return self.table.lookup(key, model, tenant, self._clock())

    def start(self) -> None:
        """Begin to follow the commands. Calling it twice is harmless."""
        self.follower.start()

    def stop(self) -> None:
        """Stop following; what stands goes on to its end."""
        self.follower.stop()

    def _maintain(self) -> None:
        """End what is over, what nobody trusted has signed, and what must not go on without the brokers."""
        trusted = None if self._keys is None else self._keys.changed()
        if trusted is not None:
            self.table.trust(trusted)
        self.table.released = self._fail_open if self.is_stale else frozenset()
        for command in self.table.expire(self._clock()):
            self.counts["lifted"] += 1
            self._tell(command, "lifted", "its time is over")

    def _take(self, record: Any) -> None:
        if record.topic != self._commands_topic:
            self._allow(record.value)
            return
        verdict = self.table.apply(record.value, self._clock())
        self.counts[verdict.refusal or verdict.outcome] += 1
        self._answer(verdict)
        if verdict.outcome == "refused":
            time.sleep(YIELD_S)

    def _allow(self, value: bytes | None) -> None:
        if self._allowlist is None or value is None:  # a tombstone says nothing that was signed
            return
        try:
            self._allowlist.take(value)
        except SigningError:
            self.counts["allow_refused"] += 1
        else:
            self.counts["allowed"] += 1

    def _answer(self, verdict: Verdict) -> None:
        """Acknowledge; but nothing that nobody trusted has signed, lest a forger make us talk."""
        command = verdict.command
        if command is None:
            return
        if verdict.outcome == "enforced":
            self._tell(command, "enforced", None)
        elif verdict.outcome == "repeated":  # sent again because our word was lost
            if command.expires_ms > self._clock():
                self._tell(command, "enforced", None)
        elif self.is_ready:  # while catching up, what was refused or over is history
            outcome = "expired" if verdict.outcome == "expired" else "refused"
            self._tell(command, outcome, verdict.refusal)
        for lifted in verdict.lifted:
            self.counts["lifted"] += 1
            self._tell(lifted, "lifted", f"by command {command.command_id}")

    def _tell(self, command: Command, outcome: Any, reason: str | None) -> None:
        told = Acknowledgement(
            command_id=command.command_id,
            key=command.key,
            enforcer=self.name,
            time_ms=self._clock(),
            outcome=outcome,
            reason=reason,
        )
        self._acknowledge(told)
