"""What a worker tells Prometheus, by the catalogue of `sinks.metrics`.

The number of series is bounded by the number of partitions and by the budget for flagged keys. Counters begin
at 0 with the process; what is read again after a crash counts once more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, get_args

from detectors.batch import is_synthetic
from sinks.metrics import catalogue
from sinks.metrics.instruments import Instruments
from sinks.records import Mode
from streams.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager

    from streams.pipeline import Outputs


class Lag(NamedTuple):
    """How far a worker is behind the end of one partition."""

    topic: str
    """Without prefix."""
    partition: int
    records: int


class Metrics:
    """The metrics of one worker.

    Attributes
    ----------
    instruments : Instruments
        For everything that is counted where it happens.
    """

    def __init__(self) -> None:
        self.instruments = Instruments("worker")
        self._clock = SystemClock()

    def count(self, outputs: Outputs) -> None:
        """Count what came of some messages."""
        add = self.instruments.add
        add(catalogue.EVENTS, outputs.events)
        for rejection in outputs.rejections:
            add(catalogue.REJECTIONS, reason=rejection.reason)
        for alert in outputs.alerts:
            if is_synthetic(alert.key):
                continue
            add(catalogue.ALERTS, level=alert.level)
            for family in alert.families:
                add(catalogue.FINDINGS, family=family)
        for command in outputs.commands:
            add(catalogue.COMMANDS, action=command.action)
        for notice in outputs.notices:
            if notice.cause is not None:
                add(catalogue.BREAKER_TRIPS, cause=notice.cause)
        for verdict in outputs.verdicts:
            add(catalogue.FEEDBACK, verdict=verdict)

    def observe_latency(self, arrived_ms: int) -> None:
        """Note that a chunk has its verdicts; its oldest record came to its topic then (0: unknown)."""
        if arrived_ms:
            seconds = max(self._clock.now_ms() - arrived_ms, 0) / 1000
            self.instruments.observe(catalogue.DETECTION_LATENCY, seconds)

    def time_snapshot(self) -> AbstractContextManager[object]:
        """Time a snapshot, from its capture until it is stored."""
        return self.instruments.time(catalogue.SNAPSHOT_SECONDS)

    def show_policy(self, mode: Mode, *, is_breaker_open: bool) -> None:
        """Set the gauges of the policy in force."""
        for name in get_args(Mode):
            self.instruments.set(catalogue.POLICY_MODE, name == mode, mode=name)
        self.instruments.set(catalogue.BREAKER_OPEN, is_breaker_open)

    def measure(
        self,
        *,
        keys: int,
        state_bytes: int,
        state_limit_bytes: int,
        snapshot_age_s: float,
        lags: Iterable[Lag],
    ) -> None:
        """Set the gauges; partitions that are not among `lags` are another worker's now."""
        self.instruments.set(catalogue.KEYS_TRACKED, keys)
        self.instruments.set(catalogue.STATE_BYTES, state_bytes)
        self.instruments.set(catalogue.STATE_LIMIT_BYTES, state_limit_bytes)
        self.instruments.set(catalogue.SNAPSHOT_AGE, snapshot_age_s)
        self.instruments.clear(catalogue.CONSUMER_LAG)
        for lag in lags:
            self.instruments.set(
                catalogue.CONSUMER_LAG, lag.records, topic=lag.topic, partition=str(lag.partition)
            )
