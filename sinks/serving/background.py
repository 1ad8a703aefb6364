"""One thread that is started and stopped, again if need be: what all that runs beside a request is made of.

Who calls it: the emitter, the observer, the outlet and the follower. `start` does not block; `stop` waits for
the thread.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger(__name__)


class BackgroundThread:
    """A daemon thread that runs one function until it is told to stop.

    Parameters
    ----------
    name : str
        Of the thread, after `modelwarden-`.
    run : callable
        Returns soon after `stopping` is set.

    Attributes
    ----------
    stopping : threading.Event
        Set from `stop` until the next `start`.
    failure : Exception or None
        What the function raised, which ended the thread; it is logged too.
    """

    def __init__(self, name: str, run: Callable[[], object]) -> None:
        self._name = f"modelwarden-{name}"
        self._run = run
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.stopping = threading.Event()
        self.failure: Exception | None = None

    @property
    def is_started(self) -> bool:
        """Whether `start` was called, and `stop` not since."""
        return self._thread is not None

    def start(self) -> None:
        """Begin. Calling it twice is harmless, from two threads too."""
        with self._lock:
            if self._thread is None:
                self.stopping.clear()
                self.failure = None
                self._thread = threading.Thread(target=self._guard, name=self._name, daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Set `stopping`, and wait until the thread has ended. Harmless where there is none."""
        self.stopping.set()
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def _guard(self) -> None:
        try:
            self._run()
        except Exception as error:  # noqa: BLE001 - who started the thread is elsewhere, and may look
            self.failure = error
            _log.exception("the thread %s has ended", self._name)
