"""One rule: which alerts it is about, what follows from them, and the tests that stand beside it.

Pure: no files, no clock. `sinks.policyfile` reads rules; `sinks.policy` obeys them.
"""

from __future__ import annotations

import datetime as dt
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from detectors.alert import Family, Level, is_budget_alert
from sinks.records import KeyReference, Mode, Name  # noqa: TC001 - msgspec reads the annotations at run time

if TYPE_CHECKING:
    from detectors.alert import Alert
    from sinks.allowlist import Covered

RuleAction = Literal["watch", "throttle", "coarsen", "watermark", "challenge", "suspend", "revoke"]
"""What a rule may ask for, weakest first; `restore` is a person's word, not a rule's."""

Maturity = Literal["sandbox", "incubating", "stable"]

MODES: tuple[Mode, ...] = ("observe", "canary", "enforce")
MATURITY_MODES: dict[Maturity, Mode] = {"sandbox": "observe", "incubating": "canary", "stable": "enforce"}
"""The strongest mode that a rule of each maturity may act in."""

APPROVING_FAMILIES = 2
"""So many families that agree stand in for a person's approval of a revocation."""

MAX_STEPS = 8

Seconds = Annotated[int, Meta(ge=1, le=366 * 86_400)]
Share = Annotated[float, Meta(ge=0, le=1)]
Technique = Annotated[str, Meta(pattern=r"^AML\.T\d{4}(\.\d{3})?$")]


class Conditions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What an alert must be; a condition not given holds always, and all that are given must hold."""

    levels: tuple[Level, ...] = ()
    families: tuple[Family, ...] = ()
    """At least one of these families is among those that agree."""
    min_families: Annotated[int, Meta(ge=1, le=16)] = 1
    """So many families agree at the alert's level."""
    techniques: tuple[Technique, ...] = ()
    """At least one of these MITRE ATLAS techniques is among the alert's."""
    models: tuple[Name, ...] = ()
    tenants: tuple[Name, ...] = ()
    plans: tuple[Name, ...] = ()
    only_discoveries: bool = False
    """The alert is one of those of which at most the engine's `false_discovery_ratio` are false."""
    min_query_count: Annotated[int, Meta(ge=0)] = 0
    max_query_count: Annotated[int, Meta(ge=0)] | None = None
    min_key_age_s: Annotated[int, Meta(ge=0)] = 0
    """Seconds since the key's first event; an alert that does not know it is taken as age 0."""
    max_key_age_s: Annotated[int, Meta(ge=0)] | None = None
    min_held_ratio: Annotated[float, Meta(ge=0)] = 0.0
    """Queries that the key holds by those that a copy needs (extraction budget); unknown is taken as 0."""


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One action and how long it lasts."""

    action: RuleAction
    duration_s: Seconds
    parameters: dict[str, float] = {}


class PolicyException(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Alerts that nothing follows from: all lists given must hold. Somebody owns it, and it ends."""

    keys: tuple[KeyReference, ...] = ()
    tenants: tuple[Name, ...] = ()
    plans: tuple[Name, ...] = ()
    models: tuple[Name, ...] = ()
    families: tuple[Family, ...] = ()
    """Every family that agrees is one of these."""
    levels: tuple[Level, ...] = ()
    owner: Name
    reason: Name
    expires: dt.date
    """Last day, in UTC."""

    @property
    def ends_ms(self) -> int:
        """The moment it ends, milliseconds since 1970."""
        end = dt.datetime.combine(self.expires, dt.time(), dt.UTC) + dt.timedelta(days=1)
        return int(end.timestamp() * 1000)


class Rule(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, dict=True
):
    """What follows from a matching alert, for how long, and what follows when it happens again."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    title: str = ""
    maturity: Maturity = "sandbox"
    mode: Mode = "enforce"
    """The rule acts in the weakest of this mode, its maturity's and the policy's."""
    conditions: Conditions = Conditions()
    action: RuleAction
    duration_s: Seconds
    parameters: dict[str, float] = {}
    escalation: Annotated[tuple[Step, ...], Meta(max_length=MAX_STEPS)] = ()
    """What follows from the second offence of a key, the third and so on; the last step is the highest."""
    decay_s: Seconds = 7 * 86_400
    """So long without an offence takes a key one step down."""
    approval: Literal["two_families", "always"] = "two_families"
    """A revocation leaves without a person's approval only if two families agree; or never."""
    suspend_while_waiting: bool = True
    """A key whose revocation waits for approval is suspended meanwhile."""
    exceptions: tuple[PolicyException, ...] = ()
    false_positives: tuple[str, ...] = ()
    """Honest use that looks like this, in words."""
    references: tuple[str, ...] = ()

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """What follows from the first offence, the second and so on."""
        first = Step(action=self.action, duration_s=self.duration_s, parameters=self.parameters)
        return (first, *self.escalation)

    @property
    def strongest_mode(self) -> Mode:
        """The mode that the rule itself and its maturity allow."""
        return weaker(self.mode, MATURITY_MODES[self.maturity])


class RuleTest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An alert, or several in order, and what the policy must make of the last one."""

    name: str
    kind: Literal["positive", "negative", "near_miss"]
    """A near miss fails exactly one of the rule's conditions."""
    alerts: Annotated[tuple[dict[str, Any], ...], Meta(min_length=1)]
    """Fields of `detectors.alert.Alert` that matter; `after_s` is counted from the alert before."""
    action: RuleAction | None = None
    """Of a positive test: what the last alert leads to; None: the rule's first action."""


class RuleFile(Rule, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, dict=True):
    """A rule as it stands in its file, with its tests."""

    tests: tuple[RuleTest, ...] = ()

    @property
    def rule(self) -> Rule:
        """The rule alone, as a signed policy contains it."""
        return Rule(**{name: getattr(self, name) for name in Rule.__struct_fields__})


def weaker(one: Mode, other: Mode) -> Mode:
    """Return the more careful of two modes."""
    return min(one, other, key=MODES.index)


def key_age_s(alert: Alert) -> float:
    """Return how long the key had been seen when the alert fired; 0 if that is not known."""
    return max(0, alert.time_ms - alert.first_time_ms) / 1000 if alert.first_time_ms else 0.0


def unmet(conditions: Conditions, alert: Alert) -> tuple[str, ...]:
    """Return the names of the conditions that do not hold.

    A budget alert says what a key holds and not that it is odd: only a rule that names its family is met.
    """
    named = not conditions.families or bool(set(conditions.families) & set(alert.families))
    age_s = key_age_s(alert)
    held = 0.0 if alert.extraction is None else alert.extraction.held_ratio
    most_queries, most_age_s = conditions.max_query_count, conditions.max_key_age_s
    holds = {
        "levels": not conditions.levels or alert.level in conditions.levels,
        "families": named and (not is_budget_alert(alert) or "budget" in conditions.families),
        "min_families": len(alert.families) >= conditions.min_families,
        "techniques": not conditions.techniques or bool(set(conditions.techniques) & set(alert.techniques)),
        "models": not conditions.models or alert.model in conditions.models,
        "tenants": not conditions.tenants or alert.tenant in conditions.tenants,
        "plans": not conditions.plans or alert.plan in conditions.plans,
        "only_discoveries": alert.is_discovery or not conditions.only_discoveries,
        "min_query_count": alert.query_count >= conditions.min_query_count,
        "max_query_count": most_queries is None or alert.query_count <= most_queries,
        "min_key_age_s": age_s >= conditions.min_key_age_s,
        "max_key_age_s": most_age_s is None or age_s <= most_age_s,
        "min_held_ratio": not conditions.min_held_ratio or held >= conditions.min_held_ratio,
    }
    return tuple(name for name, is_met in holds.items() if not is_met)


def excuses(exception: PolicyException, alert: Alert) -> bool:
    """Tell whether an exception covers an alert."""
    return excuses_place(exception, alert, alert.families, alert.level, alert.time_ms)


def excuses_place(
    exception: PolicyException, what: Covered, families: tuple[str, ...], level: str, time_ms: int
) -> bool:
    """Tell whether an exception covers what was found about a key and model, at a time."""
    return (
        time_ms < exception.ends_ms
        and (not exception.keys or what.key in exception.keys)
        and (not exception.tenants or what.tenant in exception.tenants)
        and (not exception.plans or what.plan in exception.plans)
        and (not exception.models or what.model in exception.models)
        and (not exception.families or set(families) <= set(exception.families))
        and (not exception.levels or level in exception.levels)
    )


def needs_approval(rule: Rule, alert: Alert) -> bool:
    """Tell whether a person must approve what the rule would revoke for this alert."""
    agreeing = set(alert.families) - {"budget"}
    return rule.approval == "always" or len(agreeing) < APPROVING_FAMILIES
