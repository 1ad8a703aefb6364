"""What a detection says: an alert and the evidence in it. An alert decides nothing.

Made by `detectors.engine`; published by `streams`; turned into decisions by `sinks.policy`. Immutable, so it
may be kept, replayed and shown for ever. Imports nothing heavy: the serving side may load it.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Literal

import msgspec

ALERT_SCHEMA = 1

Level = Literal["notice", "warning", "critical"]
"""How sure: false-alarm budgets of 1 %, 0.1 % and 0.01 % of benign keys that get this far in their lifetime.
Where fewer benign keys are known than a budget speaks of, it is read in a fitted tail: `extrapolated`."""

LEVELS: tuple[Level, ...] = ("notice", "warning", "critical")

Family = Literal[
    "out_of_distribution",
    "near_duplicate",
    "regularity",
    "boundary",
    "rate",
    "distribution",
    "parameters",
    "river",
    "campaign",
    "model",
    "budget",
]

FAMILY_TECHNIQUES: dict[str, tuple[str, ...]] = {
    "out_of_distribution": ("AML.T0024.002", "AML.T0040"),
    "near_duplicate": ("AML.T0024.002", "AML.T0005.001"),
    "regularity": ("AML.T0024.002", "AML.T0005.001"),
    "boundary": ("AML.T0024.002", "AML.T0042"),
    "rate": ("AML.T0034.000",),
    "distribution": ("AML.T0024.002", "AML.T0005.001"),
    "parameters": ("AML.T0024.002", "AML.T0040"),
    "river": ("AML.T0024.002",),
    "budget": ("AML.T0024.002",),
    "campaign": ("AML.T0024.002", "AML.T0021"),
    "model": ("AML.T0024.002", "AML.T0005.001"),
}
"""MITRE ATLAS v5.6.1 technique ids by family (Extract AI Model, Inference API Access, Train Proxy via
Replication, Verify Attack, Excessive Queries, Establish Accounts)."""


class Feature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One number a person can check: what was seen, and what benign keys of this model show."""

    name: str
    observed: float
    expected: float
    """Median over benign keys of the same age."""
    benign_high: float
    """99th percentile over benign keys of the same age."""
    unit: str = ""


class Evidence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one family of signals says about the key."""

    family: Family
    key_p_value: float
    """Share of benign keys expected to look at least this odd to this family in their lifetime."""
    e_value_log10: float | None = None
    """Base-10 logarithm of the Shiryaev-Roberts e-detector that bets on the family's events, if one does."""
    extrapolated: bool = False
    """The p-value lies beyond the benign keys known, in a fitted tail."""


class Extraction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of what a copy of the model needs the key holds (`detectors.budget`)."""

    held_ratio: float
    """Queries held, by those needed; above 1 where it holds more."""
    held_queries: float
    """Distinct queries times the least of the three ratios."""
    needed_queries: int
    """Distinct, ordinary queries that copies needed when that was measured."""
    distinct_queries: float
    coverage_ratio: float
    """Cells of the input space reached, by those that as many ordinary queries reach."""
    label_ratio: float
    """Entropy of the answers' classes, by that of ordinary traffic."""
    fresh_ratio: float
    """How far the inputs lie apart, by half of what the median honest key shows."""
    copy_agreement_low: float
    copy_agreement_high: float
    """Share of inputs on which copies trained on so many queries agreed with their models."""
    held_per_hour: float
    """Pace at which it grows."""
    honest_share: float
    """Share of honest keys expected to hold as much in their lifetime."""


class Alert(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An immutable finding about a key, with its evidence and the place from which it can be replayed."""

    schema: int = ALERT_SCHEMA
    alert_id: str
    """32 hex digits, from topic, partition, offset, model and level: the same on every replay."""
    time_ms: int
    """Time of the event that completed the evidence."""
    subject: Literal["key", "campaign", "model"] = "key"
    """A key, keys that are one, or a model several of whose keys are odd at once."""
    key: str
    model: str
    tenant: str | None = None
    plan: str | None = None
    level: Level
    key_p_value: float
    """Share of benign keys expected to look at least this odd, to any family, in their lifetime."""
    e_value_log10: float
    """Base-10 logarithm of the e-value 1 / (2 sqrt(key_p_value))."""
    extrapolated: bool
    """The p-value lies beyond the benign keys known, in a fitted tail."""
    families: tuple[Family, ...]
    """Families that agree at this level, strongest first."""
    evidence: tuple[Evidence, ...]
    features: tuple[Feature, ...]
    techniques: tuple[str, ...]
    query_count: int
    """Number of the key's own events, this one included, when the alert fired."""
    topic: str
    partition: int
    offset: int
    """Offset of the event that completed the evidence."""
    first_offset: int
    """Offset of the key's first event in this state; replay from here."""
    first_time_ms: int = 0
    """Time of the key's first event in this state; 0 where that is not known."""
    code_version: str
    reference_version: str
    """Content hash of the reference that the key was compared with."""
    would_not_have_fired: str
    """What would have kept the alert from firing, in words."""
    sentence: str
    """The finding in one plain sentence."""
    is_discovery: bool = False
    """One of the findings of which at most a stated share is false (`detectors.falsediscovery`)."""
    extraction: Extraction | None = None
    """What the key holds of the model; absent where nothing is known of that."""
    members: tuple[str, ...] = ()
    """All keys of a campaign, of which `key` is the busiest; the keys that contribute most to a finding about
    a model, `key` first. Empty for a finding about a key."""


def is_budget_alert(alert: Alert) -> bool:
    """Tell whether the alert is an account of what a key holds, and no finding that the key is odd."""
    return alert.families == ("budget",)


def alert_id(topic: str, partition: int, offset: int, *what: str) -> str:
    """Derive an alert's id from the event that completed it and what was found (32 hex digits)."""
    text = "\x1f".join([topic, str(partition), str(offset), *what])
    return blake2b(text.encode(), digest_size=16, person=b"mw-alert").hexdigest()
