"""Whether a worker started, lives and is ready: what its health endpoints answer.

Who calls it: the worker's event loop sets what is so, a thread of the metrics server reads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streams.clock import Clock
    from streams.settings import HealthSettings


class Health:
    """What is known of one worker.

    Attributes
    ----------
    is_warm : bool
        Topics checked, kernels compiled, brokers reached.
    is_assigned : bool
        The group has told this worker which partitions it has; none is an answer too.
    replaying : int
        Partitions whose state is not up to where it was before.
    lag_records : int
        Records that wait, over the partitions here.
    """

    def __init__(self, settings: HealthSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._last_beat_s = clock.monotonic_s()
        self.is_warm = False
        self.is_assigned = False
        self.replaying = 0
        self.lag_records = 0

    def beat(self) -> None:
        """Say that the event loop turns; once a second or so."""
        self._last_beat_s = self._clock.monotonic_s()

    def started(self) -> list[str]:
        """Return what the start still waits for."""
        return [] if self.is_warm else ["checking topics and compiling kernels"]

    def live(self) -> list[str]:
        """Return why the process should be restarted."""
        still_s = self._clock.monotonic_s() - self._last_beat_s
        if still_s <= self._settings.stuck_s:
            return []
        return [f"the event loop has stood still for {still_s:.0f} s"]

    def ready(self) -> list[str]:
        """Return why detection cannot be counted on now."""
        reasons = self.started() + self.live()
        if not self.is_assigned:
            reasons.append("no partitions assigned yet")
        if self.replaying:
            reasons.append(f"{self.replaying} partitions are being recovered")
        if self.lag_records > self._settings.lag_records:
            reasons.append(f"{self.lag_records} records behind, limit {self._settings.lag_records}")
        return reasons
