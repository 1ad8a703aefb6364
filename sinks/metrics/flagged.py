"""Series of flagged keys, within a budget: the most suspicious are shown, the rest are counted.

Who calls it: a worker, with the alerts of its partitions as they stand on the topic, so that a restarted one
shows the same. Not thread-safe; a scrape may see a key between two states.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from detectors.alert import LEVELS, is_budget_alert
from detectors.batch import is_synthetic
from sinks.metrics import catalogue

if TYPE_CHECKING:
    from collections.abc import Callable

    from detectors.alert import Alert
    from sinks.metrics.instruments import Instruments


@dataclass(slots=True)
class _Flag:
    level: int
    evidence: float
    family: str
    partition: int
    until_ms: int


class FlaggedKeys:
    """The flags of one worker.

    Parameters
    ----------
    instruments : Instruments
        Of a worker.
    budget : int
        Most flags shown; each is two series.
    lifetime_ms : int
        How long a flag stays after the newest alert.
    """

    def __init__(self, instruments: Instruments, *, budget: int, lifetime_ms: int) -> None:
        self._instruments = instruments
        self._budget = budget
        self._lifetime_ms = lifetime_ms
        self._flags: dict[tuple[str, str, str], _Flag] = {}

    def __len__(self) -> int:
        """Count the flags shown."""
        return len(self._flags)

    def flag(self, alert: Alert, *, partition: int, time_ms: int) -> None:
        """Show the key of an alert that came at `time_ms`; synthetic keys are never shown.

        A key has one flag a model for what was found about it, one for what it holds of the model
        (`budget`), one as a campaign's busiest. A flag's family changes only as its level rises, so that the
        alert that Prometheus makes of it stays the same one.
        """
        until_ms = time_ms + self._lifetime_ms
        if is_synthetic(alert.key):
            return
        place = (alert.key, alert.model, _subject(alert))
        rank = LEVELS.index(alert.level) + 1
        old = self._flags.get(place)
        if old is not None and old.level >= rank:
            old.until_ms = max(old.until_ms, until_ms)
            return
        family = alert.families[0] if alert.families else "out_of_distribution"
        flag = _Flag(rank, alert.e_value_log10, family, partition, until_ms)
        if old is not None:
            self._drop(place)
        elif len(self._flags) >= self._budget and not self._make_room(flag):
            return
        self._flags[place] = flag
        key_ref, model, _ = place
        self._instruments.set(
            catalogue.FLAGGED_KEY_LEVEL, rank, key_ref=key_ref, model=model, family=flag.family
        )
        self._instruments.set(catalogue.FLAGGED_KEY_EVIDENCE, flag.evidence, key_ref=key_ref, model=model)

    def forgive(self, key: str, model: str | None) -> None:
        """Take a key's flags away: a person said that it is honest. None: of all models."""
        self._drop_if(lambda place, _: place[0] == key and model in {None, place[1]})

    def expire(self, now_ms: int) -> None:
        """Take away the flags whose time is over."""
        self._drop_if(lambda _, flag: flag.until_ms <= now_ms)

    def give_up(self, partitions: set[int]) -> None:
        """Take away the flags of partitions that another worker has now."""
        self._drop_if(lambda _, flag: flag.partition in partitions)

    def _make_room(self, flag: _Flag) -> bool:
        """Take the least suspicious flag away, if that is less than this one; count whoever is left out."""
        self._instruments.add(catalogue.FLAGGED_KEYS_LEFT_OUT)
        least = min(self._flags, key=lambda place: (self._flags[place].level, self._flags[place].evidence))
        if (self._flags[least].level, self._flags[least].evidence) >= (flag.level, flag.evidence):
            return False
        self._drop(least)
        return True

    def _drop_if(self, condition: Callable[[tuple[str, str, str], _Flag], bool]) -> None:
        for place in [place for place, flag in self._flags.items() if condition(place, flag)]:
            self._drop(place)

    def _drop(self, place: tuple[str, str, str]) -> None:
        key_ref, model, _ = place
        flag = self._flags.pop(place)
        self._instruments.remove(
            catalogue.FLAGGED_KEY_LEVEL, key_ref=key_ref, model=model, family=flag.family
        )
        if not any(other[:2] == place[:2] for other in self._flags):
            self._instruments.remove(catalogue.FLAGGED_KEY_EVIDENCE, key_ref=key_ref, model=model)


def _subject(alert: Alert) -> str:
    if alert.subject != "key":
        return alert.subject
    return "budget" if is_budget_alert(alert) else "key"
