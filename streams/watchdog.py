"""The watchdog: a worker that cannot do its work ends itself, with a reason, so that another one can.

Consumers die in ways that raise nothing: a group that never comes out of its rebalance, a fetcher that gives
no more records after a broker outage, a loop that is blocked. The process lives, its partitions are nobody's,
and the lag grows. Here that ends the process with `RESTART_EXIT_CODE`, on which a supervisor starts it again;
nothing is lost by that (`streams.state`).

Who calls it: the worker runs `Watchdog.run` on its event loop; a thread of its own watches the loop and the
memory. Both count their own ticks instead of reading the clock, so that a process that was stopped and
continued, or a clock that jumped, is not taken for stuck.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from aiokafka.errors import KafkaError
from faust.types import TP

from streams.recovery import log_bounds

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from sinks.kafkasecurity import KafkaSecurity
    from streams.settings import WatchdogSettings

    Bounds = Mapping[tuple[str, int], tuple[int, int]]

RESTART_EXIT_CODE = 75
"""EX_TEMPFAIL: start me again."""
TICK_S = 1.0
LOOKS = 6
"""How often the ends of the topic are asked for within the time that a stall may take."""
ASK_S = 20.0
STOP_TICKS = 50
"""A graceful end that takes longer is cut short: brokers that are gone would hold it up for ever. Less than
the minute after which supervisors kill."""
MEMORY_SHARE = 0.9
"""Of the container's limit, if none is set."""
_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_NO_LIMIT = 1 << 60

_log = structlog.get_logger(__name__)


class StallDetector:
    """Tells a stall from what is merely slow: for so many looks nothing moved, though there was more.

    Parameters
    ----------
    looks
        Consecutive looks without progress that make a stall.
    """

    def __init__(self, looks: int) -> None:
        self._looks = looks
        self._positions: Mapping[TP, int] = {}
        self._lag = 0
        self._count = 0

    def look(self, positions: Mapping[TP, int], ends: Mapping[TP, int]) -> bool:
        """Take the next offsets to read and the ends of the same places; tell whether this is a stall.

        A partition that came or went is progress, and so is one record of any partition. A lag that does not
        grow is none that hurts: the first look of a stall must see more to read than the one before it.
        """
        lag = sum(max(ends[place] - position, 0) for place, position in positions.items() if place in ends)
        moved = positions != self._positions
        if moved or not lag:
            self._count = 0
        elif self._count or lag > self._lag:
            self._count += 1
        self._positions, self._lag = dict(positions), lag
        return self._count >= self._looks


class Watchdog:
    """Watches one worker.

    Parameters
    ----------
    settings : WatchdogSettings
    positions : callable
        Gives the next offset to read by place, of the partitions that are here.
    is_rebalancing : callable
        Tells whether the group is being rearranged.
    bounds : callable
        Asks the brokers where topics end, past the consumer that is watched.

    Attributes
    ----------
    reason : str or None
        Why the worker is being ended.
    """

    def __init__(
        self,
        settings: WatchdogSettings,
        positions: Callable[[], Mapping[TP, int]],
        is_rebalancing: Callable[[], bool],
        bounds: Callable[[list[tuple[str, int]]], Awaitable[Bounds]],
    ) -> None:
        self._settings = settings
        self._positions = positions
        self._is_rebalancing = is_rebalancing
        self._bounds = bounds
        self._memory_limit = settings.memory_limit_bytes or container_limit_bytes()
        self._loop_ticks = 0
        self._is_stopping = False
        self._thread = threading.Thread(target=self._watch_process, name="watchdog", daemon=True)
        self.reason: str | None = None

    async def run(self) -> None:
        """Watch until this is cancelled."""
        if not self._is_stopping:
            self._thread.start()
        try:
            await self._watch_progress()
        finally:
            self._is_stopping = True  # after a failure nobody is told to stop; the end must come all the same

    def expect_end(self) -> None:
        """Take note that the worker was told to stop: from now on it has `STOP_TICKS` to end."""
        if self._thread.ident is None:
            self._thread.start()
        self._is_stopping = True

    async def _watch_progress(self) -> None:
        detector = StallDetector(LOOKS)
        look_ticks = max(round(self._settings.stalled_s / LOOKS / TICK_S), 1)
        rebalancing = 0
        while True:
            self._loop_ticks += 1
            rebalancing = rebalancing + 1 if self._is_rebalancing() else 0
            if self._settings.stalled_s and rebalancing * TICK_S > self._settings.stalled_s:
                self.end(f"the consumer group has been rebalancing for {rebalancing * TICK_S:.0f} s")
            if self._settings.stalled_s and self._loop_ticks % look_ticks == 0:
                await self._look(detector)
            await asyncio.sleep(TICK_S)

    async def _look(self, detector: StallDetector) -> None:
        positions = self._positions()
        try:
            bounds = await asyncio.wait_for(self._bounds([tuple(place) for place in positions]), ASK_S)
        except (KafkaError, TimeoutError, OSError) as error:
            _log.warning("watchdog_blind", reason=f"the brokers do not say where topics end: {error!r}")
            return
        ends = {TP(*place): end for place, (_, end) in bounds.items()}
        if detector.look(positions, ends):
            stuck = {str(place): end - positions[place] for place, end in ends.items() if place in positions}
            self.end(
                f"no record was processed for {self._settings.stalled_s:.0f} s though there are more "
                f"(lag by place: {stuck})"
            )

    def end(self, reason: str) -> None:
        """End the worker: gracefully, with a last snapshot, or after `STOP_TICKS` at once."""
        if self.reason is None and not self._is_stopping:
            self.reason = reason
            _log.error("worker_ends", reason=reason, exit_code=RESTART_EXIT_CODE, do="Start it again")
            os.kill(os.getpid(), signal.SIGTERM)

    def _watch_process(self) -> None:
        seen, still, ending = -1, 0, 0
        while True:
            time.sleep(TICK_S)
            still = still + 1 if self._loop_ticks == seen else 0
            seen = self._loop_ticks
            is_ending = self._is_stopping or self.reason is not None
            ending = ending + 1 if is_ending else 0
            stuck = self._settings.loop_stuck_s and still * TICK_S >= self._settings.loop_stuck_s
            if stuck and not is_ending:
                self._end_at_once(f"the event loop has been stuck for {still * TICK_S:.0f} s")
            if ending > STOP_TICKS:
                asked = self.reason or "it was told to stop"
                self._end_at_once(
                    f"{asked}, and did not end within {STOP_TICKS * TICK_S:.0f} s; what it had not stored is "
                    "read again"
                )
            used = resident_bytes()
            if self._memory_limit and used > self._memory_limit:
                self.end(
                    f"{used:,} bytes of memory are more than the limit of {self._memory_limit:,} "
                    "(watchdog.memory_limit_bytes; lower engine.hot_keys if it comes again)"
                )

    def _end_at_once(self, reason: str) -> None:
        """End without the event loop's help; says where every thread stands."""
        _log.error("worker_ends", reason=reason, exit_code=RESTART_EXIT_CODE, do="Start it again")
        faulthandler.dump_traceback(sys.__stderr__ or sys.stderr)
        os._exit(RESTART_EXIT_CODE)


def resident_bytes() -> int:
    """Return the memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def container_limit_bytes() -> int | None:
    """Return `MEMORY_SHARE` of the container's memory, or None outside of one."""
    for path in _CGROUP_LIMITS:
        with suppress(OSError, ValueError):
            limit = int(path.read_text(encoding="ascii"))
            if limit < _NO_LIMIT:
                return int(limit * MEMORY_SHARE)
    return None


async def ask_bounds(bootstrap: str, security: KafkaSecurity, places: list[tuple[str, int]]) -> Bounds:
    """Ask the brokers over a connection of its own. Raises KafkaError."""
    return await log_bounds(bootstrap, places, security=security) if places else {}
