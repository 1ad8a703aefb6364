"""What a worker tells Prometheus, by the catalogue of `sinks.metrics`.

The number of series is bounded by the number of partitions and by the budget for flagged keys. Counters begin
at 0 with the process; what is read again after a crash counts once more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from prometheus_client import start_http_server

from sinks.metrics import catalogue
from sinks.metrics.instruments import Instruments
from streams.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

    from streams.pipeline import Outputs
    from streams.settings import MetricsSettings


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

    def count(self, outputs: Outputs) -> None:
        """Count what came of some messages."""
        add = self.instruments.add
        add(catalogue.EVENTS, outputs.events)
        for rejection in outputs.rejections:
            add(catalogue.REJECTIONS, reason=rejection.reason)
        for alert in outputs.alerts:
            add(catalogue.ALERTS, level=alert.level)
            for family in alert.families:
                add(catalogue.FINDINGS, family=family)
        for command in outputs.commands:
            add(catalogue.COMMANDS, action=command.action)

    def time_snapshot(self) -> AbstractContextManager[object]:
        """Time a snapshot, from its capture until it is stored."""
        return self.instruments.time(catalogue.SNAPSHOT_SECONDS)

    def measure(self, *, keys: int, state_bytes: int, lags: Iterable[Lag]) -> None:
        """Set the gauges; partitions that are not among `lags` are another worker's now."""
        self.instruments.set(catalogue.KEYS_TRACKED, keys)
        self.instruments.set(catalogue.STATE_BYTES, state_bytes)
        self.instruments.clear(catalogue.CONSUMER_LAG)
        for lag in lags:
            self.instruments.set(
                catalogue.CONSUMER_LAG, lag.records, topic=lag.topic, partition=str(lag.partition)
            )

    def serve(self, settings: MetricsSettings) -> Callable[[], None]:
        """Answer scrapes in a thread of its own, until the function that is returned is called.

        Raises
        ------
        SettingsError
            If the address cannot be had.
        """
        try:
            server, thread = start_http_server(settings.port, settings.host, self.instruments.registry)
        except OSError as error:
            raise SettingsError(
                f"metrics.port {settings.port} on metrics.host {settings.host}",
                str(error.strerror),
                "Give every worker of a machine its own metrics.port, or set metrics.enabled to false",
            ) from error

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return stop
