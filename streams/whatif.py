"""What would change: two policies over the same alerts, or two detections, in customers' units.

Both sides are judged as if they were enforced (a rule in mode observe or canary keeps its mode), so that a
policy can be compared before it acts. Nothing is sent, and the same input gives the same bytes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Literal, get_args

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sinks.policy import PolicyEngine
from sinks.rules import RuleAction
from sinks.signing import Signer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from detectors.alert import Alert
    from detectors.keysummary import KeySummary
    from sinks.policyfile import Policy
    from sinks.records import Decision

DAY_MS = 86_400_000
FELT: frozenset[str] = frozenset({"throttle", "coarsen", "challenge", "suspend", "revoke"})
"""Actions that a customer feels: a key is acted on if one of these would be sent."""
_RANK = {action: rank for rank, action in enumerate(get_args(RuleAction))}
Change = Literal["newly acted on", "treated harder", "treated milder", "no longer acted on"]
"""In the order in which changes are told."""
UNNAMED = "(none given)"


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two that are compared, summed up."""

    policy_version: str
    alerts: int
    alerts_per_day: float
    """Over the time from the first event to the last, of a day at least."""
    keys_acted_on: int
    decisions: dict[str, int]
    """By action, those that would be sent."""
    calls_affected: int
    """Calls of keys acted on, from the first action to the end of what was replayed."""
    cost: float | None = None
    """What those calls are worth, if a price was given."""


class KeyChange(msgspec.Struct, frozen=True, kw_only=True):
    """A key that would be treated otherwise."""

    change: Change
    key: str
    model: str
    tenant: str | None
    plan: str | None
    techniques: tuple[str, ...]
    before: str | None
    """Strongest action that would be sent; None for none."""
    after: str | None
    calls_affected: int
    """After the first action, on the side that acts; on both, after the change's."""
    sentence: str


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """Keys that change, under one name."""

    name: str
    newly_acted_on: int
    no_longer_acted_on: int
    treated_otherwise: int


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """What would change for customers."""

    schema: int = 1
    sources: tuple[str, ...]
    complete: bool
    events: int
    days: float
    against: str
    """What the new side was compared with."""
    before: Side
    after: Side
    keys: tuple[KeyChange, ...]
    """Newly acted on first, then those treated harder, milder and no longer; by time within."""
    tenants: tuple[Tally, ...]
    plans: tuple[Tally, ...]
    techniques: tuple[Tally, ...]


class Judged(msgspec.Struct):
    """Alerts, and what a policy would do about them."""

    policy_version: str
    alerts: Sequence[Alert]
    sent: list[tuple[Alert, Decision]]
    """Decisions that a command would follow from, in order of time."""


def judge(alerts: Sequence[Alert], policy: Policy) -> Judged:
    """Decide on all alerts as if the policy were enforced; each partition by itself, as workers do."""
    enforced = msgspec.structs.replace(policy, mode="enforce")
    signer = Signer(Ed25519PrivateKey.generate())  # its signatures go nowhere
    engines: dict[int, PolicyEngine] = {}
    sent = []
    for alert in alerts:
        engine = engines.setdefault(alert.partition, PolicyEngine(enforced, signer))
        decision = engine.decide(alert)
        if decision is not None and decision.command is not None:
            sent.append((alert, decision))
    return Judged(policy.policy_version, alerts, sent)


def compare(
    before: Judged,
    after: Judged,
    counts: Mapping[tuple[str, str], int],
    *,
    span_ms: int,
    price: float | None,
    **known: object,
) -> Difference:
    """Say what would change.

    Parameters
    ----------
    before, after : Judged
    counts : mapping of (key, model) to int
        Calls of each key in all that was replayed.
    span_ms : int
        From the first event to the last.
    price : float, optional
        Of a thousand calls.
    **known
        The fields `sources`, `complete`, `events`, `against`.
    """
    days = max(span_ms / DAY_MS, 1.0)
    old, new = _acted(before), _acted(after)
    changes = [
        change
        for place in dict.fromkeys([*new, *old])
        if (change := _change(place, old.get(place), new.get(place), counts)) is not None
    ]
    changes.sort(key=lambda change: get_args(Change).index(change.change))
    return Difference(
        days=round(days, 3),
        before=_side(before, old, counts, days, price),
        after=_side(after, new, counts, days, price),
        keys=tuple(changes),
        tenants=_tally(changes, lambda change: (change.tenant or UNNAMED,)),
        plans=_tally(changes, lambda change: (change.plan or UNNAMED,)),
        techniques=_tally(changes, lambda change: change.techniques),
        **known,  # type: ignore[arg-type]  # the caller's
    )


def call_counts(keys: Iterable[KeySummary]) -> dict[tuple[str, str], int]:
    """Return how many calls each key made."""
    return {(key.key, key.model): key.query_count for key in keys}


class _Acted(msgspec.Struct):
    """The first and the strongest action that a customer would feel."""

    first: Alert
    strongest: str
    alert: Alert
    """Behind the strongest."""


def _acted(judged: Judged) -> dict[tuple[str, str], _Acted]:
    found: dict[tuple[str, str], _Acted] = {}
    for alert, decision in judged.sent:
        if decision.action not in FELT:
            continue
        place = alert.key, alert.model
        known = found.setdefault(place, _Acted(alert, decision.action, alert))
        if _RANK[decision.action] > _RANK[known.strongest]:
            known.strongest, known.alert = decision.action, alert
    return found


def _change(
    place: tuple[str, str],
    old: _Acted | None,
    new: _Acted | None,
    counts: Mapping[tuple[str, str], int],
) -> KeyChange | None:
    ranks = [-1 if side is None else _RANK[side.strongest] for side in (old, new)]
    shown = new or old
    if shown is None or ranks[0] == ranks[1]:
        return None
    change: Change
    if old is None:
        change = "newly acted on"
    elif new is None:
        change = "no longer acted on"
    else:
        change = "treated harder" if ranks[1] > ranks[0] else "treated milder"
    return KeyChange(
        change=change,
        key=place[0],
        model=place[1],
        tenant=shown.alert.tenant,
        plan=shown.alert.plan,
        techniques=shown.alert.techniques,
        before=None if old is None else old.strongest,
        after=None if new is None else new.strongest,
        calls_affected=_after(place, shown.first, counts),
        sentence=shown.alert.sentence,
    )


def _after(place: tuple[str, str], alert: Alert, counts: Mapping[tuple[str, str], int]) -> int:
    return max(counts.get(place, alert.query_count) - alert.query_count, 0)


def _side(
    judged: Judged,
    acted: Mapping[tuple[str, str], _Acted],
    counts: Mapping[tuple[str, str], int],
    days: float,
    price: float | None,
) -> Side:
    calls = sum(_after(place, found.first, counts) for place, found in acted.items())
    return Side(
        policy_version=judged.policy_version,
        alerts=len(judged.alerts),
        alerts_per_day=round(len(judged.alerts) / days, 3),
        keys_acted_on=len(acted),
        decisions=dict(sorted(Counter(decision.action for _, decision in judged.sent).items())),
        calls_affected=calls,
        cost=None if price is None else round(calls * price / 1000, 2),
    )


def _tally(
    changes: Sequence[KeyChange], names_of: Callable[[KeyChange], tuple[str, ...]]
) -> tuple[Tally, ...]:
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for change in changes:
        for name in names_of(change):
            found[name][change.change] += 1
    return tuple(
        Tally(
            name=name,
            newly_acted_on=count["newly acted on"],
            no_longer_acted_on=count["no longer acted on"],
            treated_otherwise=count["treated harder"] + count["treated milder"],
        )
        for name, count in sorted(found.items(), key=lambda pair: (-pair[1].total(), pair[0]))
    )
