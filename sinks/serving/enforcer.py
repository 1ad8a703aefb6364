"""Follows the commands topic in a thread of its own, so that a lookup is a dict read.

Who calls it: a serving process, once. `start` and `stop` may be called from any thread; `stop` waits for the
thread. `lookup` never blocks and never raises. The topic is read from its beginning: it is compacted, so a
process that starts again knows what stands as soon as it has caught up (`is_ready`). While the brokers are
away the table is kept; which actions then go on, and which lapse, is the operator's choice (`fail_open`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from sinks.records import Acknowledgement
from sinks.serving.clock import now_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from sinks.records import Command
    from sinks.serving.commands import CommandTable, Standing, Verdict

POLL_MS = 200
CONTACT_S = 2.0
"""How often the brokers are asked for the topic's end, which tells whether they can be reached."""
TIMEOUT_MS = 5_000
RETRY_S = 1.0
EXPIRE_S = 1.0
DEFAULT_STALE_S = 30.0
DEFAULT_FAIL_OPEN = frozenset({"throttle", "coarsen", "watermark", "challenge"})
"""What lapses while the brokers are away: an undo could not be heard, and these rest on weaker evidence."""
YIELD_S = 0.000_05
"""Pause after a record that was refused, so that a flood of forged commands leaves the interpreter to the
requests: checking a signature holds it for a tenth of a millisecond."""

_log = logging.getLogger(__name__)


class Acknowledge(Protocol):
    """Takes an acknowledgement and its command's key; never blocks and never raises."""

    def __call__(self, acknowledgement: Acknowledgement, key: str, /) -> None:
        """Send it some time."""


class Enforcer:
    """The commands in force, kept up to date.

    Parameters
    ----------
    table : CommandTable
        Decides what is obeyed.
    kafka : str
        Bootstrap servers.
    topic : str
        The commands topic, with its prefix.
    name : str
        Of this serving process, in its acknowledgements; the same after a restart.
    acknowledge : callable
        Takes each acknowledgement.
    fail_open : collection of str
        Actions that lapse when the brokers have not answered for `stale_s`; the others go on to their end.
    stale_s : float
    clock : callable
        Milliseconds since 1970.
    """

    def __init__(  # noqa: PLR0913 - each is one thing that an operator decides
        self,
        table: CommandTable,
        *,
        kafka: str,
        topic: str,
        name: str,
        acknowledge: Acknowledge,
        fail_open: Collection[str] = DEFAULT_FAIL_OPEN,
        stale_s: float = DEFAULT_STALE_S,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        self.table = table
        self.name = name
        self.counts: Counter[str] = Counter()
        """Records by outcome: `enforced`, `repeated`, `expired`, and each `Refusal`; and `lifted`."""
        self._kafka = kafka
        self._topic = topic
        self._acknowledge = acknowledge
        self._fail_open = frozenset(fail_open)
        self._stale_s = stale_s
        self._clock = clock
        self._contact_s = -float("inf")
        self._positions: dict[int, int] = {}
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def is_ready(self) -> bool:
        """Whether the topic has been read to the end that it had at the start."""
        return self._ready.is_set()

    @property
    def contact_age_s(self) -> float:
        """Seconds since the brokers last answered; infinite before they did."""
        return time.monotonic() - self._contact_s

    @property
    def is_stale(self) -> bool:
        """Whether the brokers have not answered for too long to trust what stands."""
        return self.contact_age_s > self._stale_s

    def lookup(self, key: str, model: str | None = None, tenant: str | None = None) -> tuple[Standing, ...]:
        """Return what is in force for a call, the strongest first; for most calls nothing."""
        return self.table.lookup(key, model, tenant, self._clock())

    def start(self) -> None:
        """Begin to follow the topic. Calling it twice is harmless."""
        if self._thread is None:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._run, name="modelwarden-enforcer", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop following, and wait until the thread has ended."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def wait_until_ready(self, timeout_s: float) -> bool:
        """Wait until the topic has been read once; tell whether it has."""
        return self._ready.wait(timeout_s)

    def _run(self) -> None:
        """Follow the topic, connecting again for as long as it takes."""
        while not self._stopping.is_set():
            try:
                self._follow()
            except (KafkaError, OSError, ValueError) as error:
                self.counts["broker_error"] += 1
                _log.warning("cannot read %s at %s: %s; trying again", self._topic, self._kafka, error)
                self._maintain()
                self._stopping.wait(RETRY_S)

    def _follow(self) -> None:
        consumer = KafkaConsumer(
            bootstrap_servers=self._kafka.split(","),
            bootstrap_timeout_ms=TIMEOUT_MS,
            request_timeout_ms=TIMEOUT_MS,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            allow_auto_create_topics=False,
        )
        try:
            self._seek(consumer)
            last_contact_s = last_expiry_s = 0.0
            while not self._stopping.is_set():
                monotonic_s = time.monotonic()
                if monotonic_s - last_contact_s >= CONTACT_S or not self.is_ready:
                    last_contact_s = monotonic_s
                    self._keep_contact(consumer)
                if monotonic_s - last_expiry_s >= EXPIRE_S:
                    last_expiry_s = monotonic_s
                    self._maintain()
                for records in consumer.poll(timeout_ms=POLL_MS).values():
                    self._take(records)
        finally:
            consumer.close()

    def _seek(self, consumer: Any) -> None:
        """Go on where an earlier connection ended, or at the beginning."""
        partitions = consumer.partitions_for_topic(self._topic)
        if not partitions:
            raise ValueError("the topic does not exist; run `modelwarden topics create`")
        places = [TopicPartition(self._topic, partition) for partition in sorted(partitions)]
        consumer.assign(places)
        for place in places:
            if place.partition in self._positions:
                consumer.seek(place, self._positions[place.partition])
            else:
                consumer.seek_to_beginning(place)

    def _keep_contact(self, consumer: Any) -> None:
        ends = consumer.end_offsets(list(consumer.assignment()))
        self._contact_s = time.monotonic()
        if not self.is_ready and all(consumer.position(place) >= end for place, end in ends.items()):
            self._ready.set()

    def _maintain(self) -> None:
        """End what is over, and what must not go on without the brokers."""
        self.table.released = self._fail_open if self.is_stale else frozenset()
        for command in self.table.expire(self._clock()):
            self.counts["lifted"] += 1
            self._tell(command, "lifted", "its time is over")

    def _take(self, records: list[Any]) -> None:
        for record in records:
            verdict = self.table.apply(record.value, self._clock())
            self.counts[verdict.refusal or verdict.outcome] += 1
            self._answer(verdict)
            self._positions[record.partition] = record.offset + 1
            if verdict.outcome == "refused":
                time.sleep(YIELD_S)

    def _answer(self, verdict: Verdict) -> None:
        """Acknowledge; but nothing that nobody trusted has signed, lest a forger make us talk."""
        command = verdict.command
        if command is None:
            return
        if verdict.outcome == "repeated":
            if command.expires_ms > self._clock():
                self._tell(command, "enforced", None)
        elif verdict.outcome == "enforced":
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
            enforcer=self.name,
            time_ms=self._clock(),
            outcome=outcome,
            reason=reason,
        )
        self._acknowledge(told, command.key)
