"""The reconcile loop as a process: `sinks.reconcile` on Kafka, with metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import structlog

from sinks.metrics import catalogue
from sinks.reconcile import DEFAULT_LIMIT_MS, Reconciler
from sinks.records import Action
from sinks.serving.commands import CommandTable
from sinks.serving.follower import TopicFollower
from sinks.serving.settings import WatchedKeys
from streams.auditwatch import AuditWatch
from streams.bus.base import BusError
from streams.bus.kafka import KafkaBus
from streams.clock import SystemClock

if TYPE_CHECKING:
    from pathlib import Path

    from streams.clock import Clock
    from streams.companion import Companion
    from streams.settings import Settings

_log = structlog.get_logger(__name__)


class ReconcileLoop:
    """Reads commands and acknowledgements in one thread, and writes from it what must be written again.

    Parameters
    ----------
    settings : Settings
    trusted_keys : Path
        See `sinks.serving.settings.read_trusted_keys`.
    companion : Companion
        Shows the metrics, and is told that the loop gets on.
    limit_ms : int
        How long a command may go unacknowledged.
    clock : Clock, optional
    """

    def __init__(
        self,
        settings: Settings,
        trusted_keys: Path,
        companion: Companion,
        *,
        limit_ms: int = DEFAULT_LIMIT_MS,
        clock: Clock | None = None,
    ) -> None:
        self.instruments = companion.instruments
        self._health = companion.health
        self._keys = WatchedKeys(trusted_keys)
        self._table = CommandTable(self._keys.keys)
        self.reconciler = Reconciler(self._table, limit_ms)
        self._clock = clock or SystemClock()
        self._commands = settings.topic("commands")
        self._bus = KafkaBus(settings.kafka, security=settings.kafka_security)
        topics = [settings.topic("acks"), self._commands]
        self.follower = TopicFollower(
            settings.kafka, topics, self._take, self._tick, security=settings.kafka_security
        )
        self._audit = AuditWatch(settings, self.instruments, self._clock)
        self._told: dict[str, int] = {}

    def start(self) -> None:
        """Begin to read."""
        self.follower.start()
        self._audit.start()

    def check(self) -> None:
        """Raise what has ended the reading, if it ended by itself."""
        self.follower.check()

    def stop(self) -> None:
        """End."""
        self._audit.stop()
        self.follower.stop()
        self._bus.close()

    def _take(self, record: Any) -> None:
        if record.topic == self._commands:
            self.reconciler.take_command(record, self._clock.now_ms())
        else:
            self.reconciler.take_acknowledgement(record.value)

    def _tick(self) -> None:
        self._health.beat()
        changed = self._keys.changed()
        if changed is not None:
            self._table.trust(changed)
        if self.follower.is_ready:  # before that, an acknowledgement may stand further on
            self._write_again()
        self._measure()

    def _write_again(self) -> None:
        try:
            for word in self.reconciler.due(self._clock.now_ms()):
                self._bus.send(
                    self._commands,
                    word.value,
                    key=word.topic_key,
                    partition=word.partition,
                    headers=tuple(word.headers),
                )
                _log.warning(
                    "command_sent_again",
                    command_id=word.command.command_id,
                    action=word.command.action,
                    sends=word.sends,
                )
        except BusError as error:  # it is due again later
            _log.error("commands_not_sent_again", error=str(error))

    def _measure(self) -> None:
        for outcome in ("enforced", "refused", "expired", "lifted"):
            self._raise_to(catalogue.ACKNOWLEDGEMENTS, outcome, outcome=outcome)
        self._raise_to(catalogue.COMMANDS_RESENT, "resent")
        self._raise_to(catalogue.COMMANDS_REWRITTEN, "rewritten")
        latencies, self.reconciler.latencies_ms = self.reconciler.latencies_ms, []
        for latency_ms in latencies:
            self.instruments.observe(catalogue.ISSUED_TO_ENFORCED, latency_ms / 1000)
        waiting = self.reconciler.unacknowledged(self._clock.now_ms())
        for action in get_args(Action):
            count, oldest_s = waiting.get(action, (0, 0.0))
            self.instruments.set(catalogue.UNACKNOWLEDGED, count, action=action)
            self.instruments.set(catalogue.OLDEST_UNACKNOWLEDGED, oldest_s, action=action)

    def _raise_to(self, metric: Any, name: str, /, **labels: str) -> None:
        count = self.reconciler.counts[name]
        self.instruments.add(metric, count - self._told.get(name, 0), **labels)
        self._told[name] = count
