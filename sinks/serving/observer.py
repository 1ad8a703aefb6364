"""Observed calls on their way to events, in a thread of its own: a request leaves its call, and goes on.

Who calls it: the warden. `put` never blocks; what it raises, a ValueError or a TypeError, says that nothing
was queued. A raw input lives here for some milliseconds, whether or not Kafka is there, in this process only;
the raw key is not here at all. Sketches and confidences are computed for all waiting calls at once, in numpy
calls that let requests run meanwhile.

As the queue fills, or the emitter's behind it, calls are queued without what would be sketched, and only when
it is full are they dropped: the ladder of `sinks.serving.backlog`.

A request must not let go of the interpreter either, or it waits until another thread does: so `put` copies
bytes, which does not, and computes nothing.
"""

from __future__ import annotations

import os
import threading
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakSet

import numpy as np

from sinks.serving.background import BackgroundThread
from sinks.serving.backlog import RUNGS, Ladder
from sinks.serving.event import confidences, make_event
from sinks.serving.sketch import Sketcher

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike, NDArray

    from sinks.records import ServingEvent
    from sinks.serving.emitter import Emitter

LINGER_S = 0.01
"""How long a call may wait for others; with the emitter's own linger, about 20 ms."""
MAX_CALLS = 4_096
MAX_BYTES = 64 * 1024 * 1024
"""Of raw inputs and answers that wait; hundreds of images."""
TOGETHER = 64
"""Calls that become events in one go; a longer one would hold up the requests that come meanwhile."""


class _Numbers(NamedTuple):
    """A copy of numbers that its owner may change after the call."""

    raw: bytes
    dtype: np.dtype[Any]


class _Observation(NamedTuple):
    time_ms: int
    key: str
    inputs: _Numbers | None
    probabilities: _Numbers | None
    fields: dict[str, Any]


class Observer:
    """A bounded queue of calls, and the thread that makes events of them.

    Parameters
    ----------
    model : str
        Name of the served model.
    events : Emitter
        Takes the events; calls that do not fit here are counted there as dropped, `buffer_full`.
    on_unobserved : callable
        Told how many calls could not become events for what was in them.
    """

    def __init__(self, model: str, events: Emitter, on_unobserved: Callable[[int], None]) -> None:
        self._model = model
        self._events = events
        self._on_unobserved = on_unobserved
        self._sketcher: Sketcher | None = None
        self._is_closed = False
        self._was_started = False
        self._begin()
        _observers.add(self)

    def _begin(self) -> None:
        """Start with nothing; in a child process too, where the parent's calls are the parent's."""
        self._queue: deque[_Observation] = deque()
        self._bytes = 0
        self._ladder = Ladder()
        self._work = threading.Lock()
        self._background = BackgroundThread("observer", self._run)

    def __len__(self) -> int:
        """Count the calls that wait."""
        return len(self._queue)

    def put(
        self, time_ms: int, key: str, inputs: ArrayLike | None, probabilities: Any, fields: dict[str, Any]
    ) -> None:
        """Queue a call.

        Raises
        ------
        ValueError or TypeError
            If the input or the answer are not numbers.
        """
        inputs = self._shed(inputs, fields)
        asked, answered = _copy(inputs), _copy(probabilities)
        size = (len(asked.raw) if asked else 0) + (len(answered.raw) if answered else 0)
        if self._is_closed or len(self._queue) >= MAX_CALLS or self._bytes + size > MAX_BYTES:
            self._events.lose("closed" if self._is_closed else "buffer_full", 1)
            return
        if fields.get("embedding_sketch") is not None:
            fields["embedding_sketch"] = np.array(fields["embedding_sketch"])
        self._queue.append(_Observation(time_ms, key, asked, answered, fields))
        self._bytes += size  # threads may lose a sum to each other; it starts anew with every round
        if self._was_started and not self._background.is_started:
            self.start()  # the first call after a fork

    def _shed(self, inputs: ArrayLike | None, fields: dict[str, Any]) -> ArrayLike | None:
        """Leave out what the ladder says before it costs anything; return what is left of the inputs."""
        fill = max(len(self._queue) / MAX_CALLS, self._bytes / MAX_BYTES)
        left_out = RUNGS[max(self._ladder.see(fill), self._events.backlog.level)]
        if "embedding_sketch" in left_out and fields.pop("embedding_sketch", None) is not None:
            self._events.backlog.count_shed("embedding_sketch")
        if "input_sketch" not in left_out or inputs is None or isinstance(inputs, str | bytes):
            return inputs
        self._events.backlog.count_shed("input_sketch")
        return None

    def start(self) -> None:
        """Begin to make events. Calling it twice is harmless."""
        self._is_closed = False
        self._was_started = True
        self._background.start()

    def stop(self) -> None:
        """Make events of what is queued, and end. Later calls are dropped."""
        self._is_closed = True
        self._was_started = False
        self._background.stop()
        self.work()

    def _run(self) -> None:
        while not self._background.stopping.wait(LINGER_S):
            self.work()

    def work(self) -> None:
        """Make events of all calls that wait."""
        with self._work:
            left = len(self._queue)
            self._bytes = 0
            while left > 0:
                calls = [self._queue.popleft() for _ in range(min(left, TOGETHER))]
                left -= len(calls)
                self._make_events(calls)

    def _make_events(self, calls: Sequence[_Observation]) -> None:
        sketches = _each([call.inputs for call in calls], self._sketch)
        summaries = _each([call.probabilities for call in calls], confidences)
        for at, call in enumerate(calls):
            event = self._make_event(call, sketches[at], summaries[at])
            if event is None:
                self._on_unobserved(1)
            else:
                self._events.put(event)

    def _make_event(self, call: _Observation, sketch: Any, summary: Any) -> ServingEvent | None:
        """Make one event; None if something in the call forbids it."""
        if (call.inputs is not None and sketch is None) or (call.probabilities is not None and not summary):
            return None
        try:
            return make_event(
                time_ms=call.time_ms,
                key=call.key,
                model=self._model,
                input_sketch=sketch,
                **((summary or {}) | call.fields),
            )
        except (ValueError, TypeError):  # not logged: its text may hold what the caller sent
            return None

    def _sketch(self, inputs: NDArray[Any]) -> list[Any]:
        """Sketch inputs (n, d): one (32,) each, None for one that cannot be."""
        if self._sketcher is None:
            self._sketcher = Sketcher(inputs.shape[1])
        if inputs.shape[1] != self._sketcher.input_size:
            return [None] * len(inputs)  # it would be compared with nothing
        return self._sketcher.sketch_each(inputs)


def _copy(values: Any) -> _Numbers | None:
    if values is None or isinstance(values, str | bytes):
        return None
    array = np.asarray(values)
    if array.dtype.kind not in "fiub" or array.size == 0:
        raise ValueError("not numbers")
    return _Numbers(array.tobytes(), array.dtype)


def _each(values: Sequence[_Numbers | None], make: Callable[[NDArray[Any]], list[Any]]) -> list[Any]:
    """Make something of each row of numbers, all of one size and type at once; None of no numbers."""
    made: list[Any] = [None] * len(values)
    alike: defaultdict[tuple[int, Any], list[tuple[int, bytes]]] = defaultdict(list)
    for at, value in enumerate(values):
        if value is not None:
            alike[len(value.raw), value.dtype].append((at, value.raw))
    for (_, dtype), found in alike.items():
        rows = np.frombuffer(b"".join([raw for _, raw in found]), dtype).reshape(len(found), -1)
        for (at, _), one in zip(found, make(rows), strict=True):
            made[at] = one
    return made


_observers: WeakSet[Observer] = WeakSet()


def _after_fork() -> None:
    for observer in list(_observers):
        observer._begin()  # noqa: SLF001 - the same module


os.register_at_fork(after_in_child=_after_fork)
