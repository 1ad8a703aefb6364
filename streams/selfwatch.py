"""What watches a worker from inside: its metrics, its health, its flagged keys. It can fail without harm.

Who calls it: `streams.app`, first of all at the start and last at the end.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import structlog

from detectors.keystate import FIELDS
from detectors.slabs import slot_bytes
from sinks.metrics.flagged import FlaggedKeys
from sinks.metrics.server import serve
from streams.clock import SystemClock
from streams.flagfeed import FlagFeed
from streams.health import Health

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from streams.app import WorkerApp

MEASURE_S = 1.0
RETRY_S = 10.0

_log = structlog.get_logger(__name__)


class SelfWatch:
    """The watch over one worker.

    Parameters
    ----------
    app : WorkerApp
        Read only.
    """

    def __init__(self, app: WorkerApp) -> None:
        self._app = app
        settings, clock = app.worker_settings, SystemClock()
        self.health = Health(settings.health, clock)
        flagged = FlaggedKeys(
            app.metrics.instruments,
            budget=settings.metrics.flagged_keys,
            lifetime_ms=int(1000 * settings.metrics.flagged_for_s),
        )
        self._feed = FlagFeed(settings, flagged, clock)
        self._tasks: list[asyncio.Task[None]] = []
        self._stop_serving: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Answer scrapes and probes from now on. Raises ServeError if the address cannot be had."""
        settings = self._app.worker_settings.metrics
        if not settings.enabled:
            return
        health = self.health
        probes = {"/livez": health.live, "/readyz": health.ready, "/startupz": health.started}
        registry = self._app.metrics.instruments.registry
        self._stop_serving = await asyncio.to_thread(serve, registry, settings.host, settings.port, probes)
        self._tasks = [asyncio.create_task(self._measure()), asyncio.create_task(self._follow_flags())]

    async def stop(self) -> None:
        """Answer no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._feed.close()
        await asyncio.to_thread(self._stop_serving)

    async def _measure(self) -> None:
        while True:
            self.health.beat()
            await _surely("measure", self._measure_once())
            await asyncio.sleep(MEASURE_S)

    async def _measure_once(self) -> None:
        if not self.health.is_warm:
            return
        states = list(self._app.fences.partitions.values())
        lags = list(self._app.fences.lags(self._app.consumer.end_offset))
        self.health.lag_records = sum(lag.records for lag in lags)
        self.health.replaying = sum(state.replay_end is not None for state in states)
        engines = [state.pipeline.engine for state in states]
        self._app.metrics.measure(
            keys=sum(engine.key_count for engine in engines),
            state_bytes=sum(engine.state_bytes for engine in engines),
            state_limit_bytes=len(engines) * self._app.worker_settings.engine.hot_keys * slot_bytes(FIELDS),
            snapshot_age_s=self._app.fences.snapshot_age_s(),
            lags=lags,
        )
        self._app.metrics.show_policy(
            self._app.fences.policy.mode,
            is_breaker_open=any(state.pipeline.is_breaker_open for state in states),
        )

    async def _follow_flags(self) -> None:
        while True:
            if not self.health.is_assigned:
                await asyncio.sleep(MEASURE_S)
            elif not await _surely("flagged_keys", self._feed.poll(self._app.fences.partitions)):
                await asyncio.sleep(RETRY_S)
            elif not self._app.fences.partitions:
                await asyncio.sleep(MEASURE_S)


async def _surely(what: str, work: Coroutine[Any, Any, None]) -> bool:
    """Do the work; if that fails, log it: watching may never stop what is watched."""
    try:
        await work
    except Exception as error:  # noqa: BLE001 - whatever it is, detection goes on
        _log.warning("self_watch_failed", what=what, error=str(error), kind=type(error).__name__)
        return False
    return True
