"""What the small processes beside the workers share: their scrapes, their probes and their end."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sinks.metrics.instruments import Instruments
from sinks.metrics.server import serve
from streams.clock import SystemClock
from streams.health import Health
from streams.settings import HealthSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sinks.metrics.definition import Component

PORTS: dict[Component, int] = {
    "reconcile": 9465,
    "annotate": 9466,
    "canary": 9467,
    "revoker": 9468,
    "serving": 9470,
}
"""Where each listens by default; `deploy/prometheus/prometheus.yml` scrapes them there."""


class Companion:
    """One such process.

    Attributes
    ----------
    instruments : Instruments
    health : Health
        Call `beat` as long as the process gets on.
    stopped : threading.Event
        Set by SIGTERM and SIGINT.
    """

    def __init__(self, component: Component, stuck_s: float) -> None:
        self.instruments = Instruments(component)
        self.health = Health(HealthSettings(stuck_s=stuck_s), SystemClock())
        self.health.is_warm = self.health.is_assigned = True
        self.stopped = threading.Event()

    @contextmanager
    def serving(self, host: str, port: int) -> Iterator[None]:
        """Answer scrapes and probes, and listen to signals, within a `with` block. Raises ServeError."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stopped.set())
        probes = {"/livez": self.health.live, "/readyz": self.health.ready, "/startupz": self.health.started}
        stop = serve(self.instruments.registry, host, port, probes)
        try:
            yield
        finally:
            stop()
