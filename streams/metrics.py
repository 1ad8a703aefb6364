"""What a worker tells Prometheus: a short, closed catalogue.

No label holds a key, a model, a tenant or anything else that traffic can invent, so the number of series is
bounded by the number of partitions. Counters begin at 0 with the process; what is read again after a crash
counts once more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from detectors.alert import LEVELS
from sinks.records import Action, Reason
from streams.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from streams.pipeline import Outputs
    from streams.settings import MetricsSettings

_SNAPSHOT_BUCKETS_S = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


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
    events : Counter
        Events processed; those refused are in `rejections`.
    rejections : Counter
        Messages refused, by `reason`.
    alerts : Counter
        By `level`.
    commands : Counter
        By `action`.
    keys_tracked : Gauge
        Keys kept in full now, each model's counted.
    state_bytes : Gauge
        Bytes of their state.
    snapshot_seconds : Histogram
        From the capture of a partition's state until it is stored.
    consumer_lag : Gauge
        Records not yet in the state, by `topic` and `partition`.
    """

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.events = Counter("modelwarden_events", "Events processed", registry=registry)
        self.rejections = Counter("modelwarden_rejections", "Messages refused", ["reason"], registry=registry)
        self.alerts = Counter("modelwarden_alerts", "Alerts made", ["level"], registry=registry)
        self.commands = Counter("modelwarden_commands", "Commands made", ["action"], registry=registry)
        self.keys_tracked = Gauge("modelwarden_keys_tracked", "Keys kept in full", registry=registry)
        self.state_bytes = Gauge("modelwarden_state_bytes", "Bytes of state in memory", registry=registry)
        self.snapshot_seconds = Histogram(
            "modelwarden_snapshot_seconds",
            "Time from capturing a partition's state until it is stored",
            buckets=_SNAPSHOT_BUCKETS_S,
            registry=registry,
        )
        self.consumer_lag = Gauge(
            "modelwarden_consumer_lag_records",
            "Records not yet in the state",
            ["topic", "partition"],
            registry=registry,
        )
        for counter, values in (
            (self.rejections, get_args(Reason)),
            (self.alerts, LEVELS),
            (self.commands, get_args(Action)),
        ):
            for value in values:  # a series that begins at 0 lets Prometheus see the first increase
                counter.labels(value)

    def count(self, outputs: Outputs) -> None:
        """Count what came of some messages."""
        self.events.inc(outputs.events)
        for rejection in outputs.rejections:
            self.rejections.labels(rejection.reason).inc()
        for alert in outputs.alerts:
            self.alerts.labels(alert.level).inc()
        for command in outputs.commands:
            self.commands.labels(command.action).inc()

    def measure(self, *, keys: int, state_bytes: int, lags: Iterable[Lag]) -> None:
        """Set the gauges; partitions that are not among `lags` are another worker's now."""
        self.keys_tracked.set(keys)
        self.state_bytes.set(state_bytes)
        self.consumer_lag.clear()
        for lag in lags:
            self.consumer_lag.labels(lag.topic, str(lag.partition)).set(lag.records)

    def serve(self, settings: MetricsSettings) -> Callable[[], None]:
        """Answer scrapes in a thread of its own, until the function that is returned is called.

        Raises
        ------
        SettingsError
            If the address cannot be had.
        """
        try:
            server, thread = start_http_server(settings.port, settings.host, self.registry)
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
