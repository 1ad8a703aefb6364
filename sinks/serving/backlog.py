"""Events that the brokers have not stored yet: bounded in bytes, and what gives way as they become more.

A ladder: what only sharpens evidence goes before what counts.

    half full             events go on without the embedding sketch, until a quarter is left
    three quarters full   without the input sketch as well, until half is left
    full                  the newest event is dropped

An event without sketches still counts: time, key, tenant, class, margin, request parameters. It takes two
thirds of the memory and a third of the bytes on the wire of one with both. Between going up and coming down
lies a quarter of the bound, so that a rung is not left and taken again with every message that is stored.

Who calls it: the emitter, and the observer for its own queue. Thread-safe: the lock is held for a few
instructions, never while something is encoded or sent.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from sinks.records import ServingEvent

RUNGS = ((), ("embedding_sketch",), ("embedding_sketch", "input_sketch"))
"""What events go without, by level."""
UP, DOWN = (0.5, 0.75), (0.25, 0.5)
"""Fill at which level n gives way to n + 1, and below which n + 1 gives way to n."""
EVENT_BYTES, SKETCH_BYTES = 520, 137
"""What CPython 3.11 to 3.13 keeps for an event with key, time and a dozen numbers, and for each sketch;
tests/sinks/serving/test_backlog.py measures it."""
ON_THE_WAY = 1 / 16
"""Share of the bound that may be with the Kafka client, which gives an event up after its delivery timeout;
what waits here waits as long as it takes."""


class Ladder:
    """What is left out at how full a queue is, with hysteresis. Threads may share one.

    Attributes
    ----------
    level : int
        0 to 2, an index of `RUNGS`.
    """

    def __init__(self) -> None:
        self.level = 0

    def see(self, fill: float) -> int:
        """Tell how full the queue is, 0 to 1; return the level that follows."""
        level = self.level
        while level < len(UP) and fill >= UP[level]:
            level += 1
        while level > 0 and fill < DOWN[level - 1]:
            level -= 1
        self.level = level
        return level


class Backlog:
    """A queue of events for one thread that takes them, and the account of those it took.

    Parameters
    ----------
    limit_bytes : int
        Memory that events may take, waiting or on their way.

    Attributes
    ----------
    waiting : deque
        Events that were not taken yet.
    shed : Counter
        Sketches left out, by field.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.waiting: deque[ServingEvent] = deque()
        self.shed: Counter[str] = Counter()
        self._limit_bytes = limit_bytes
        self._ladder = Ladder()
        self._lock = threading.Lock()
        self._events = 0
        self._bytes = 0
        self._bytes_taken = 0

    def __len__(self) -> int:
        """Count the events that wait or are on their way."""
        return self._events

    @property
    def fill(self) -> float:
        """Share of the bound that is taken, 0 to 1."""
        return self._bytes / self._limit_bytes

    @property
    def level(self) -> int:
        """How much is left out now, an index of `RUNGS`."""
        return self._ladder.level

    def put(self, event: ServingEvent) -> bool:
        """Queue an event, or what the ladder leaves of it; False if it does not fit."""
        left_out = [name for name in RUNGS[self._ladder.level] if getattr(event, name) is not None]
        if left_out:
            event = msgspec.structs.replace(event, **dict.fromkeys(left_out))
        size = event_bytes(event)
        with self._lock:
            if self._bytes + size > self._limit_bytes:
                return False
            self._events += 1
            self._bytes += size
            self.waiting.append(event)
            self.shed.update(left_out)
            self._ladder.see(self.fill)
        return True

    def take(self) -> list[ServingEvent]:
        """Take what waits, as far as it may be on its way. One thread only."""
        taken: list[ServingEvent] = []
        free, size = ON_THE_WAY * self._limit_bytes - self._bytes_taken, 0
        while self.waiting and size < free:
            taken.append(self.waiting.popleft())
            size += event_bytes(taken[-1])
        with self._lock:
            self._bytes_taken += size
        return taken

    def finish(self, events: int, size: int) -> None:
        """Say of so many events, and bytes, that were taken that they are stored or given up."""
        with self._lock:
            self._bytes_taken -= size
        self._forget(events, size)

    def clear(self) -> int:
        """Give up what waits; return how many events that were."""
        given_up = [self.waiting.popleft() for _ in range(len(self.waiting))]
        self._forget(len(given_up), sum(map(event_bytes, given_up)))
        return len(given_up)

    def count_shed(self, name: str) -> None:
        """Count a sketch that was left out before its event came here."""
        with self._lock:
            self.shed[name] += 1

    def _forget(self, events: int, size: int) -> None:
        with self._lock:
            self._events -= events
            self._bytes -= size
            self._ladder.see(self.fill)


def event_bytes(event: ServingEvent) -> int:
    """Estimate the memory that an event takes."""
    sketches = (event.input_sketch is not None) + (event.embedding_sketch is not None)
    return EVENT_BYTES + SKETCH_BYTES * sketches
