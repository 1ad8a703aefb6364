"""Counts the events of one case, and prints its figures when it has seen enough. Imports nothing of ours."""

from __future__ import annotations

import json
import os
import time

WARM_SHARE = 0.2
"""Of the events, before anything is measured: connections, caches and allocators."""
LONGEST_S = 20.0
"""A case that is too slow for all events is measured for so long."""


class Meter:
    """Measures from a share of the events to the last of them, or for `LONGEST_S`."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.count = 0
        self._first_s = 0.0
        self._start: tuple[int, float, float] | None = None

    def add(self, events: int) -> bool:
        """Count events; True when the figures are printed and the process may end."""
        self.count += events
        now = time.perf_counter()
        self._first_s = self._first_s or now  # not when made: a start may take longer than the warm-up
        if self._start is None:
            if self.count >= WARM_SHARE * self.total or now - self._first_s > LONGEST_S / 4:
                self._start = (self.count, now, time.process_time())
            return False
        count, start, start_cpu = self._start
        if self.count < self.total and now - start < LONGEST_S:
            return False
        events = self.count - count
        figures = {"events": events, "cpu_s": time.process_time() - start_cpu, "wall_s": now - start}
        os.write(1, json.dumps(figures).encode() + b"\n")  # Faust turns sys.stdout into a log
        return True

    def end(self, events: int) -> None:
        """Count events, and end the process when there are enough."""
        if self.add(events):
            os._exit(0)
