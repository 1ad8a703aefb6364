"""The counting worker with a wall clock that can be set: the seconds in the file CLOCK_FILE are added to it.

The monotonic clock stays as it is, as it does when a machine's clock is set. (libfaketime would do this from
outside, but breaks `time.sleep`.)
"""

from __future__ import annotations

import os
import runpy
import time
from pathlib import Path

_LOOK_S = 0.5


class JumpingClock:
    """Stands in for `time.time`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._real = time.time  # noqa: TID251 - the clock itself
        self._offset_s, self._looked_s = 0.0, 0.0

    def __call__(self) -> float:
        """Return seconds since 1970, as set."""
        if time.monotonic() - self._looked_s > _LOOK_S:
            self._looked_s = time.monotonic()
            self._offset_s = float(self._path.read_text(encoding="ascii") or 0)
        return self._real() + self._offset_s


if __name__ == "__main__":
    time.time = JumpingClock(Path(os.environ["CLOCK_FILE"]))  # noqa: TID251 - same
    runpy.run_path(str(Path(__file__).parents[1] / "streams" / "counting_worker.py"), run_name="__main__")
