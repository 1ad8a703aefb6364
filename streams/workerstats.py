"""What running workers say of themselves, read from their metrics endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.request import urlopen

import msgspec
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Iterable

    from streams.clock import Clock

TIMEOUT_S = 2.0
_SUMMED = {
    "modelwarden_events_total": "events",
    "modelwarden_rejections_total": "rejections",
    "modelwarden_consumer_lag_records": "lag_records",
    "modelwarden_keys_tracked": "keys_tracked",
}


class WorkerStats(msgspec.Struct, frozen=True, kw_only=True):
    """The sums over all workers that answered."""

    workers: int
    events: float
    rejections: float
    lag_records: float
    keys_tracked: float
    events_per_s: float | None = None
    """Since the last reading; None at the first."""


class WorkerReader:
    """Reads the metrics of some workers again and again.

    Parameters
    ----------
    addresses : iterable of str
        `host:port` of each.
    clock : Clock
        For the rate.
    """

    def __init__(self, addresses: Iterable[str], clock: Clock) -> None:
        self._addresses = list(addresses)
        self._clock = clock
        self._before: tuple[float, float] | None = None

    def read(self) -> WorkerStats | None:
        """Return the sums; None if no worker answers."""
        sums = dict.fromkeys(_SUMMED.values(), 0.0)
        answered = 0
        for address in self._addresses:
            text = scrape(address)
            if text is not None:
                answered += 1
                for name, value in _samples(text):
                    sums[_SUMMED[name]] += value
        if not answered:
            return None
        now_s = self._clock.monotonic_s()
        before, self._before = self._before, (now_s, sums["events"])
        rate = None
        if before is not None and now_s > before[0] and sums["events"] >= before[1]:
            rate = (sums["events"] - before[1]) / (now_s - before[0])
        return WorkerStats(workers=answered, events_per_s=rate, **sums)


def scrape(address: str) -> str | None:
    """Return what a metrics endpoint says; None if it does not answer."""
    try:
        with urlopen(f"http://{address}/metrics", timeout=TIMEOUT_S) as answer:
            return str(answer.read().decode())
    except (URLError, OSError, ValueError):
        return None


def _samples(text: str) -> Iterable[tuple[str, float]]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in _SUMMED:
                yield sample.name, sample.value
