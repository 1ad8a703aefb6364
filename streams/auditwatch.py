"""Verifying the audit chain now and then, so that a break is told by a metric and not only to who asks."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import structlog

from sinks.audit import Verifier
from sinks.metrics import catalogue
from streams.audittrail import read_topic
from streams.bus.base import BusError

if TYPE_CHECKING:
    from sinks.audit import Fault, Head
    from sinks.metrics.instruments import Instruments
    from streams.clock import Clock
    from streams.settings import Settings

FIRST_S = 60.0
"""Before the first round: Prometheus must have seen the count at 0 to see it rise."""
EVERY_S = 3600.0

_log = structlog.get_logger(__name__)


class AuditWatch:
    """Reads the whole chain each hour, in a thread of its own; `modelwarden reconcile` runs it.

    A round keeps some hundred bytes an entry in memory until it ends. Each fault is counted and logged once.
    A round also looks for the ends that the round before found, so what is cut off in between is noticed.

    Parameters
    ----------
    settings : Settings
    instruments : Instruments
        Of the component `reconcile`.
    clock : Clock
    first_s, every_s : float
        Seconds before the first round, and between rounds.
    """

    def __init__(
        self,
        settings: Settings,
        instruments: Instruments,
        clock: Clock,
        *,
        first_s: float = FIRST_S,
        every_s: float = EVERY_S,
    ) -> None:
        self._settings, self._instruments, self._clock = settings, instruments, clock
        self._first_s, self._every_s = first_s, every_s
        self._heads: dict[int, Head] = {}
        self._known: set[Fault] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="modelwarden-audit", daemon=True)

    def start(self) -> None:
        """Begin; the start counts as the last time that all was well."""
        self._instruments.set(catalogue.AUDIT_VERIFIED, self._clock.now_ms() / 1000)
        self._thread.start()

    def stop(self) -> None:
        """Begin no other round. One under way ends with the process."""
        self._stopping.set()

    def _run(self) -> None:
        wait_s = self._first_s
        while not self._stopping.wait(wait_s):
            wait_s = self._every_s
            try:
                self.verify()
            except BusError as error:
                _log.error("audit_chain_not_read", error=str(error))

    def verify(self) -> None:
        """Make one round. Raises BusError."""
        verifier = Verifier()
        for place, partition, value in read_topic(self._settings):
            verifier.add(value, partition, place)
        verifier.compare_heads(self._heads)
        self._heads = {head.partition: head for head in verifier.heads}
        for fault in verifier.faults:
            if fault not in self._known:
                self._known.add(fault)
                self._instruments.add(catalogue.AUDIT_BREAKS)
                _log.error("audit_chain_broken", kind=fault.kind, partition=fault.partition,
                           entry=fault.sequence, place=fault.place, detail=fault.detail)  # fmt: skip
        self._instruments.set(catalogue.AUDIT_VERIFIED, self._clock.now_ms() / 1000)
