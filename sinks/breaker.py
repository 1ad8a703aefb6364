"""The breaker: so many keys an hour may be cut off, and not one more; then everything is only observed.

A mistake of detection or policy looks like many attacks at once. The breaker counts what commands would cut
off over the last hour of event time, by keys, tenants and share of calls. The first that would go beyond a
limit trips it: no command but `restore` leaves until it is reset, by command or after a set time.

Limits are for a whole deployment. Each partition decides alone, so each gets its share of them: what all
partitions together cut off is at most the limit, at the price that an uneven load trips one of them earlier.
Pure and deterministic; its state is part of the policy engine's.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sinks.rules import RuleAction, Seconds, Share  # noqa: TC001 - msgspec reads the annotations at run time

Cause = Literal["keys", "tenants", "traffic_share"]

_MINUTE_MS = 60_000


class BreakerLimits(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What may be cut off within a window, over the whole deployment."""

    window_s: Seconds = 3600
    actions: tuple[RuleAction, ...] = ("suspend", "revoke")
    """The actions that count."""
    max_keys: Annotated[int, Meta(ge=0)] = 100
    max_tenants: Annotated[int, Meta(ge=0)] = 20
    max_traffic_ratio: Share = 0.05
    """Share of the window's calls that the keys made."""
    min_calls: Annotated[int, Meta(ge=1)] = 100_000
    """The share of calls is not judged while a partition's window holds fewer."""
    reset_s: Seconds | None = None
    """The breaker closes by itself after so long; None: by `modelwarden policy reset-breaker` only."""


class Stopped(msgspec.Struct, array_like=True):
    """A key that was cut off."""

    time_ms: int
    tenant: str | None
    calls: float
    """It made in the window before."""


class BreakerState(msgspec.Struct):
    """What the breaker remembers; part of a dump."""

    stopped: dict[str, Stopped] = {}
    """By key, in order of time."""
    calls: dict[int, int] = {}
    """Of all keys, by minute since 1970."""
    tripped_ms: int | None = None
    trips: int = 0
    resets: int = 0
    """Newest reset by command that was obeyed."""


class Breaker:
    """Counts what is cut off and says when it is too much.

    Parameters
    ----------
    limits : BreakerLimits
    partition, partitions : int
        Whose share of the limits this is.
    """

    def __init__(self, limits: BreakerLimits, partition: int = 0, partitions: int = 1) -> None:
        self.limits = limits
        self.state = BreakerState()
        self.place = (partition, partitions)

    def share_of(self, limit: int) -> int:
        """Return this partition's share of a whole number; the shares of all partitions sum to it."""
        partition, partitions = self.place
        return limit // partitions + (partition % partitions < limit % partitions)

    def count_calls(self, calls_by_minute: dict[int, int]) -> None:
        """Take note of calls, by minute since 1970."""
        calls = self.state.calls
        for minute, count in calls_by_minute.items():
            calls[minute] = calls.get(minute, 0) + count
        if len(calls) > 2 * self.limits.window_s // 60 + 2:  # nobody was cut off for long
            self._prune((max(calls) + 1) * _MINUTE_MS)

    def is_open(self, time_ms: int) -> bool:
        """Tell whether commands are held back. One whose time is over closes by this call."""
        state, reset_s = self.state, self.limits.reset_s
        tripped_ms = state.tripped_ms
        if tripped_ms is not None and reset_s is not None and time_ms >= tripped_ms + 1000 * reset_s:
            self._close()
        return state.tripped_ms is not None

    def admit(self, key: str, tenant: str | None, calls: float, time_ms: int) -> Cause | None:
        """Count a key that is to be cut off, or trip and say which limit it would break.

        A key that was counted in this window already is not counted again.
        """
        self._prune(time_ms)
        stopped = self.state.stopped
        if key in stopped:
            return None
        cause = self._broken(tenant, calls)
        if cause is not None:
            self.state.tripped_ms = time_ms
            self.state.trips += 1
            return cause
        stopped[key] = Stopped(time_ms, tenant, calls)
        return None

    def reset(self, resets: int) -> bool:
        """Obey the newest reset by command, if it is new; tell whether it closed the breaker."""
        if resets <= self.state.resets:
            return False
        self.state.resets = resets
        was_open = self.state.tripped_ms is not None
        self._close()
        return was_open

    def _broken(self, tenant: str | None, calls: float) -> Cause | None:
        stopped = self.state.stopped.values()
        if len(stopped) + 1 > self.share_of(self.limits.max_keys):
            return "keys"
        tenants = {one.tenant for one in stopped if one.tenant is not None} | {tenant}
        if len(tenants - {None}) > self.share_of(self.limits.max_tenants):
            return "tenants"
        total = sum(self.state.calls.values())
        cut_off = calls + sum(one.calls for one in stopped)
        if total >= self.limits.min_calls and cut_off > self.limits.max_traffic_ratio * total:
            return "traffic_share"
        return None

    def _close(self) -> None:
        self.state.tripped_ms = None
        self.state.stopped = {}

    def _prune(self, time_ms: int) -> None:
        oldest_ms = time_ms - 1000 * self.limits.window_s
        state = self.state
        state.stopped = {key: one for key, one in state.stopped.items() if one.time_ms > oldest_ms}
        state.calls = {m: n for m, n in state.calls.items() if (m + 1) * _MINUTE_MS > oldest_ms}


def calls_in_window(query_count: int, age_s: float, window_s: float) -> float:
    """Return about how many of a key's calls fell into the window, by its mean pace; all if its age is 0."""
    return query_count * min(1.0, window_s / age_s) if age_s > 0 else float(query_count)
