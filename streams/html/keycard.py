"""Everything about one alerted key: the finding in words, its charts, what was decided, its origin."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from detectors.alert import LEVELS, is_budget_alert
from detectors.budgetalert import tell
from streams.fleet import evidence_of
from streams.html.charts import BOUNDS, budget_chart, evidence_chart, fleet_chart
from streams.html.element import Markup, join, tag
from streams.html.words import COMMAND_MARK, LEVEL_MARK, names, odds, plural, utc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from detectors.alert import Alert, Evidence, Feature
    from sinks.records import Command, Decision
    from streams.fleet import Fleet, HistoryPoint

_SCALE = 6.0
"""-log10 of the smallest share of honest keys that a bar of evidence shows apart."""


class KeyFindings(NamedTuple):
    """One key on one model, and what is known of it."""

    key: str
    model: str
    alerts: tuple[Alert, ...]
    """At least one, in order of time."""
    decisions: tuple[Decision, ...]
    commands: tuple[Command, ...]
    points: tuple[HistoryPoint, ...] = ()
    fleet: Fleet | None = None

    @property
    def weightiest(self) -> Alert:
        """The newest alert of the highest level."""
        return max(self.alerts, key=lambda alert: (LEVELS.index(alert.level), alert.time_ms))


def key_card(found: KeyFindings, *, is_open: bool) -> Markup:
    """Draw a key's card."""
    alert = found.weightiest
    summary = tag(
        "summary",
        tag("span", f"{LEVEL_MARK[alert.level]} {alert.level}", class_=f"{alert.level} strong"),
        tag("span", found.key, class_="mono strong"),
        tag("span", f"on {found.model}, query {found.alerts[0].query_count:,}", class_="muted"),
        tag("span", _outcome(found), class_="muted"),
    )
    body = tag("div", tag("p", alert.sentence), tag("div", _charts(found), class_="grid"), class_="body")
    anchor = f"{found.key}-{found.model}"
    return tag("details", summary, body, class_="card", id=anchor, open="" if is_open else None)


def _outcome(found: KeyFindings) -> str:
    if found.commands:
        return f"{found.commands[-1].action} sent"
    if found.decisions:
        return f"{found.decisions[-1].action} decided, not sent"
    return "no rule of the policy matched"


def _charts(found: KeyFindings) -> list[Markup]:
    alert = found.weightiest
    account = next((a.extraction for a in reversed(found.alerts) if a.extraction is not None), None)
    parts = [
        _part(
            "Evidence against its bounds",
            evidence_chart(found.points, found.alerts, found.commands),
            "Upwards: how rare among honest keys, in powers of ten. "
            f"{COMMAND_MARK} marks a command. The bounds are false-alarm budgets of 1, 0.1 and 0.01 %.",
        ),
        _part("Who agrees", _evidence(alert), "Share of honest keys that ever look this odd to a family."),
        _part("Observed and expected", _features(alert.features), _FEATURES_NOTE),
    ]
    if found.fleet is not None:
        odder = sum(found.fleet.evidence_counts[int(evidence_of(alert.key_p_value) * 4) :])
        note = f"{plural(found.fleet.keys, 'key')} of {found.model}, {odder:,} at least this odd. "
        note += f"Of the {found.fleet.discoveries:,} oddest together, one in ten may be honest. ▼ this key."
        parts.append(_part("Among all keys", fleet_chart(found.fleet, alert.key_p_value), note))
    if account is not None:
        told = tell(account, found.model)
        chart = budget_chart(found.points, account) if found.points else None
        note = "Solid: held so far. Dotted: at the pace of its last alert, had it gone on." if chart else ""
        parts.append(_part("Extraction budget", join(chart, tag("p", told, class_="small")), note))
    parts.append(_part("What was decided", _decided(found)))
    parts.append(_part("What would have kept it quiet", tag("p", alert.would_not_have_fired)))
    parts.append(_part("Where it came from", _origin(alert, found)))
    return parts


_FEATURES_NOTE = "Filled: this key. Solid line: a typical honest key. Dotted line: 99 % of them are below."


def _part(title: str, body: Markup, note: str = "") -> Markup:
    return tag("div", tag("h3", title), body, tag("p", note, class_="muted small") if note else None)


def _evidence(alert: Alert) -> Markup:
    rows = []
    bounds = [(bound / _SCALE, "soft") for bound in BOUNDS.values()]
    for item in alert.evidence:
        agrees = item.family in alert.families
        share = min(evidence_of(item.key_p_value) / _SCALE, 1.0)
        rows += [
            tag("span", names((item.family,)), class_="strong" if agrees else "muted"),
            tag("span", _certain(item), class_="value" if agrees else "value muted"),
            _bar(share, bounds, is_on=agrees),
        ]
    rows += [
        tag("span", "together", class_="strong"),
        tag("span", odds(alert.key_p_value), class_="value strong"),
        _bar(min(evidence_of(alert.key_p_value) / _SCALE, 1.0), bounds, is_on=True),
    ]
    return tag("div", rows, class_="bars")


def _certain(item: Evidence) -> str:
    return odds(item.key_p_value) + (" *" if item.extrapolated else "")


def _features(features: Sequence[Feature]) -> Markup:
    rows = []
    for feature in features:
        low = min(0.0, feature.observed, feature.expected)
        span = max(feature.observed, feature.expected, feature.benign_high) - low or 1.0
        marks = [((feature.expected - low) / span, ""), ((feature.benign_high - low) / span, "soft")]
        beyond = feature.observed > feature.benign_high
        numbers = f"{feature.observed:.3g}, typical {feature.expected:.3g}"
        rows += [
            tag("span", feature.name, title=feature.unit, class_="mono"),
            tag("span", numbers, class_="value strong" if beyond else "value"),
            _bar((feature.observed - low) / span, marks, is_on=beyond),
        ]
    return tag("div", rows, class_="bars")


def _bar(share: float, marks: Sequence[tuple[float, str]], *, is_on: bool) -> Markup:
    return tag(
        "div",
        tag("u", style=f"width:{100 * max(min(share, 1.0), 0.0):.1f}%", class_="on" if is_on else None),
        [tag("b", style=f"left:{100 * at:.1f}%", class_=kind or None) for at, kind in marks],
        class_="bar",
    )


def _decided(found: KeyFindings) -> Markup:
    queries = {alert.alert_id: alert.query_count for alert in found.alerts}
    lines = []
    for decision in found.decisions:
        query = queries.get(decision.alert_id)
        when = f"{utc(decision.time_ms)}, " + ("feedback" if query is None else f"query {query:,}")
        sent = "sent" if decision.withheld is None else f"withheld: {decision.withheld}"
        lines.append(
            tag(
                "li", f"{when}: ", tag("span", decision.action, class_="strong"), f" {sent} ({decision.rule})"
            )
        )
    if not lines:
        return tag("p", "No rule of the policy matched.", class_="muted")
    until = [
        tag("li", f"command {c.action} until {utc(c.expires_ms)}, signed by {c.signing_key_id or 'nobody'}")
        for c in found.commands
    ]
    return tag("ul", lines, until, class_="small")


def _origin(alert: Alert, found: KeyFindings) -> Markup:
    place = f"{alert.topic}, partition {alert.partition}, offsets {alert.first_offset:,} to {alert.offset:,}"
    policy = found.decisions[-1].policy_version if found.decisions else "no decision"
    rows = {
        "alert": alert.alert_id,
        "events": place,
        "MITRE ATLAS": ", ".join(alert.techniques),
        "made by": f"version {alert.code_version}, reference {alert.reference_version}, policy {policy}",
    }
    if alert.tenant or alert.plan:
        rows["customer"] = ", ".join(filter(None, (alert.tenant, alert.plan)))
    if any(item.extrapolated for item in alert.evidence):
        rows["*"] = "read in a fitted tail, beyond the honest keys known"
    if is_budget_alert(alert):
        rows["kind"] = "an account of what the key holds; no finding that it is odd"
    return tag("dl", [join(tag("dt", name), tag("dd", value)) for name, value in rows.items()])
