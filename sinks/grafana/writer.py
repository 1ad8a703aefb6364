"""From the spool to Grafana, at a pace it bears, each annotation once.

Who calls it: the process `modelwarden annotate`, step by step. Each step blocks for one call to the server at
most; the caller waits for as long as it is told.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import structlog

from sinks.grafana.client import query
from sinks.grafana.errors import GrafanaError
from sinks.metrics import catalogue

if TYPE_CHECKING:
    from collections.abc import Callable

    from sinks.grafana.client import GrafanaClient
    from sinks.grafana.spool import Spool, Waiting
    from sinks.metrics.instruments import Instruments

PER_SECOND = 5.0
BURST = 20
"""A server with SQLite took 16 a second on one connection; other clients want some of that."""
SUMMARY_OF = 500
LONGEST_WAIT_S = 60.0
FIRST_WAIT_S = 0.25

_log = structlog.get_logger(__name__)


class AnnotationWriter:
    """Writes what waits.

    Parameters
    ----------
    client : GrafanaClient
    spool : Spool
    instruments : Instruments
        Of the component `annotate`.
    now_ms, monotonic_s : callable
        The clock.
    per_second : float
        Annotations written a second at most, after a burst of `BURST`.
    """

    def __init__(  # noqa: PLR0913 - what it stands between
        self,
        client: GrafanaClient,
        spool: Spool,
        instruments: Instruments,
        *,
        now_ms: Callable[[], int],
        monotonic_s: Callable[[], float],
        per_second: float = PER_SECOND,
    ) -> None:
        self._client = client
        self._spool = spool
        self._instruments = instruments
        self._now_ms = now_ms
        self._monotonic_s = monotonic_s
        self._per_second = per_second
        self._tokens = float(BURST)
        self._refilled_s = monotonic_s()
        self._failures = 0

    def step(self) -> float:
        """Write one annotation, if one waits; return the seconds to wait before the next step."""
        self._refill()
        if self._tokens < 1:
            return (1 - self._tokens) / self._per_second
        self._spool.coalesce(above=BURST, at_once=SUMMARY_OF, now_ms=self._now_ms())
        waiting = self._spool.next()
        if waiting is None:
            return 1 / self._per_second
        try:
            self._write(waiting)
        except GrafanaError as error:
            return self._fail(waiting, error)
        self._failures = 0
        self._tokens -= 1
        self._instruments.set(catalogue.GRAFANA_UP, 1)
        return 0.0

    def probe(self) -> None:
        """See whether Grafana answers, when nothing waits for it."""
        try:
            self._client.call("GET", "/health")
        except GrafanaError as error:
            self._note(error)
        else:
            self._instruments.set(catalogue.GRAFANA_UP, 1)

    def _write(self, waiting: Waiting) -> None:
        annotation = waiting.annotation
        if waiting.is_tried:
            tags = (("tags", f"id:{annotation.annotation_id}"), ("limit", "1"))
            if self._client.call("GET", query("/annotations", *tags)):
                self._spool.finish(waiting)
                return
        else:
            self._spool.mark_tried(waiting)
        self._client.call("POST", "/annotations", annotation.body())
        self._spool.finish(waiting)

    def _fail(self, waiting: Waiting, error: GrafanaError) -> float:
        """Drop what will never be taken; wait, longer each time, for what may be later."""
        self._note(error)
        if error.cause == "refused":  # one bad annotation may not block the others
            self._spool.finish(waiting, "refused")
            _log.error("annotation_refused", id=waiting.annotation.annotation_id, error=str(error))
            return 0.0
        self._failures += 1
        longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(self._failures, 12))
        if self._failures == 1:
            _log.warning("grafana_away", error=str(error), waiting=self._spool.depth())
        jitter = random.uniform(0.5, 1)  # noqa: S311 - no secret
        return max(error.retry_after_s, jitter * float(longest))

    def _note(self, error: GrafanaError) -> None:
        self._instruments.add(catalogue.GRAFANA_FAILURES, cause=error.cause)
        is_up = error.cause in {"refused", "throttled"}
        self._instruments.set(catalogue.GRAFANA_UP, float(is_up))

    def _refill(self) -> None:
        now_s = self._monotonic_s()
        self._tokens = min(BURST, self._tokens + (now_s - self._refilled_s) * self._per_second)
        self._refilled_s = now_s


class CountReporter:
    """Tells Prometheus what the spool counts, which outlives the process."""

    def __init__(self, spool: Spool, instruments: Instruments) -> None:
        self._spool = spool
        self._instruments = instruments
        self._told = spool.counts()

    def report(self, now_ms: int) -> None:
        """Let the counters rise by what is new, and set the gauges."""
        metrics = {
            "offered": catalogue.ANNOTATIONS_OFFERED,
            "written": catalogue.ANNOTATIONS_WRITTEN,
            "coalesced": catalogue.ANNOTATIONS_COALESCED,
            "dropped": catalogue.ANNOTATIONS_DROPPED,
        }
        counts = self._spool.counts()
        for (what, label), n in counts.items():
            more = n - self._told.get((what, label), 0)
            name = "reason" if what == "dropped" else "kind"
            if more:
                self._instruments.add(metrics[what], more, **{name: label})
        self._told = counts
        oldest_ms = self._spool.oldest_offered_ms()
        self._instruments.set(catalogue.ANNOTATIONS_SPOOLED, self._spool.depth())
        age_s = 0.0 if oldest_ms is None else max(now_ms - oldest_ms, 0) / 1000
        self._instruments.set(catalogue.ANNOTATIONS_OLDEST, age_s)
