"""What an evaluation says, as records: one `Outcome` per key and budget, and the counts drawn from them."""

from __future__ import annotations

import platform
from importlib.metadata import version

import msgspec

from detectors.alert import LEVELS, Level
from detectors.engine import EngineSettings  # noqa: TC001 - msgspec reads the annotations

BUDGETS: dict[str, tuple[Level, ...]] = {"1 %": LEVELS, "0.1 %": LEVELS[1:], "critical": LEVELS[2:]}
"""Levels that count as an alarm, by budget. `critical` is no budget but is reported beside the two."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What happened to one key at one budget."""

    source: str
    number: int
    victim: str
    kind: str
    attack: str | None
    persona: str | None
    budget: str
    queries: int
    attack_queries: int
    first_alarm_query: int | None
    first_alarm_attack_query: int | None
    """Attack queries up to and including the alarm."""
    delay_ms: int | None
    """From the key's first query to the alarm."""
    families: tuple[str, ...]
    """At the first alarm, strongest first."""
    families_ever: tuple[str, ...]
    sentence: str | None
    first_budget_alert_query: int | None = None
    """Query at which the key came to hold what a copy needs, at any budget; no alarm."""


class AmongCustomers(msgspec.Struct, frozen=True, kw_only=True):
    """Campaigns found when the keys of a split ran together with honest ones, at one budget."""

    first_linked_alarm_query_in_all: int | None
    """Queries of the file's keys up to the first campaign alarm that holds mostly them."""
    keys_linked: int
    """Most keys of the file in one campaign."""
    strangers_linked: int
    """Honest keys in that campaign."""


class FileOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What happened to all keys of an attack file at one budget."""

    source: str
    victim: str
    kind: str
    attack: str | None
    budget: str
    keys: int
    keys_alarmed: int
    median_alarm_query: float | None
    """Over the alarmed keys."""
    first_alarm_query_in_all: int | None
    """Queries of all keys of the file up to the first alarm on any of them."""
    first_linked_alarm_query_in_all: int | None
    """The same for the first alarm on a campaign."""
    keys_linked: int
    """Most keys of the file in one campaign."""
    among_customers: AmongCustomers | None
    """For splits: what was linked when the file ran among the measured benign keys."""
    families: tuple[str, ...]


class BenignShare(msgspec.Struct, frozen=True, kw_only=True):
    """Measured benign keys alarmed at one budget."""

    victim: str
    persona: str | None
    """None: all of the victim."""
    budget: str
    keys: int
    alarmed: int
    share: float


class FalseCampaigns(msgspec.Struct, frozen=True, kw_only=True):
    """Campaign alarms among measured benign keys alone, run together, at one budget."""

    source: str
    victim: str
    budget: str
    keys: int
    alarms: int


class ModelTrial(msgspec.Struct, frozen=True, kw_only=True):
    """An attack by several keys among honest traffic (`streams.modeltrials`), at one onset and budget."""

    source: str
    victim: str
    attack: str | None
    onset: float
    """Share of the honest traffic before it."""
    budget: str
    keys: int
    queries_to_alarm: int | None
    """Of the model, honest ones included, from the onset to its alarm."""
    keys_named: int
    attack_keys_named: int


class FalseModelAlarms(msgspec.Struct, frozen=True, kw_only=True):
    """Alarms of a model without an attack, at one budget."""

    source: str
    victim: str
    budget: str
    alarms: int
    weeks: float


class ReferenceNote(msgspec.Struct, frozen=True, kw_only=True):
    """What a victim was calibrated on."""

    victim: str
    keys: int
    events: int
    version: str


class DayCount(msgspec.Struct, frozen=True, kw_only=True):
    """Benign keys first alarmed on one day of a cold start, per budget."""

    day: int
    """1 is the first day of the traces."""
    budget: str
    benign_keys_alarmed: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A whole evaluation."""

    schema: int = 1
    mode: str
    """`calibrated` or `live`."""
    calibrated_on: str | None = None
    """The half of the benign keys, `even` or `odd`; the other half is measured."""
    versions: dict[str, str]
    settings: EngineSettings
    budgets: dict[str, tuple[str, ...]]
    references: tuple[ReferenceNote, ...]
    benign: tuple[BenignShare, ...]
    files: tuple[FileOutcome, ...]
    false_campaigns: tuple[FalseCampaigns, ...]
    model_trials: tuple[ModelTrial, ...]
    false_model_alarms: tuple[FalseModelAlarms, ...]
    days: tuple[DayCount, ...]
    traces: tuple[Outcome, ...]

    def dump(self) -> bytes:
        """Write as indented JSON, the same on every run."""
        return msgspec.json.format(msgspec.json.encode(self, order="sorted"), indent=1) + b"\n"


def versions() -> dict[str, str]:
    """Return the versions that results depend on, by package."""
    packages = ("modelwarden", "numpy", "numba", "scipy", "river")
    return {name: version(name) for name in packages} | {"python": platform.python_version()}
