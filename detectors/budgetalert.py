"""From an account to an alert: what a key holds of the model, in words, and at what pace.

A budget alert is a level of its own: always `notice`, of the family `budget` alone.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

from detectors.alert import FAMILY_TECHNIQUES, Alert, Evidence, Feature, alert_id
from detectors.explain import CODE_VERSION, e_value_log10, name_of

if TYPE_CHECKING:
    from detectors.alert import Extraction
    from detectors.batch import EventBatch
    from detectors.budget import Crossed


def make_budget_alert(
    crossed: Crossed,
    batch: EventBatch,
    query_count: int,
    first_offset: int,
    reference_version: str,
) -> Alert:
    """Write the alert for a row at which a key, with so many queries, holds what is told of."""
    row, extraction = crossed
    key, model = batch.subject(row)
    place = batch.topic, int(batch.partition[row]), int(batch.offset[row])
    share = extraction.honest_share
    return Alert(
        alert_id=alert_id(*place, key, model, "budget"),
        time_ms=int(batch.time_ms[row]),
        key=key,
        model=model,
        tenant=name_of(batch.tenants, int(batch.tenant[row])),
        plan=name_of(batch.plans, int(batch.plan[row])),
        level="notice",
        key_p_value=share,
        e_value_log10=e_value_log10(-log(share)),
        extrapolated=False,
        families=("budget",),
        evidence=(Evidence(family="budget", key_p_value=share),),
        features=_features(extraction),
        techniques=FAMILY_TECHNIQUES["budget"],
        query_count=query_count,
        topic=batch.topic,
        partition=place[1],
        offset=place[2],
        first_offset=first_offset,
        code_version=CODE_VERSION,
        reference_version=reference_version,
        would_not_have_fired=(
            "It would not have fired with fewer distinct queries, or with as many in a smaller part of the "
            "input space."
        ),
        sentence=f"{tell(extraction, model)} That is no sign of theft by itself: honest use looks the same.",
        extraction=extraction,
    )


def tell(extraction: Extraction, model: str) -> str:
    """Say what the key holds, when it will hold all, what a copy made of it is worth, and who else does."""
    left = extraction.needed_queries - extraction.held_queries
    pace = ""
    if left > 0 and extraction.held_per_hour > 0:
        pace = f"; at this pace all of them in {_duration(left / extraction.held_per_hour)}"
    low, high = extraction.copy_agreement_low, extraction.copy_agreement_high
    return (
        f"This key holds {extraction.held_ratio:.0%} of the queries that a copy of {model} needs by our "
        f"measurements ({extraction.held_queries:,.0f} of {extraction.needed_queries:,}){pace}. "
        f"Measured copies made from so many ordinary queries agreed with their models on {low:.0%} "
        f"to {high:.0%} of inputs; {extraction.honest_share:.1%} of honest keys ever hold as much."
    )


def _features(extraction: Extraction) -> tuple[Feature, ...]:
    ratios = (
        ("coverage_ratio", extraction.coverage_ratio),
        ("label_ratio", extraction.label_ratio),
        ("fresh_ratio", extraction.fresh_ratio),
    )
    return tuple(
        Feature(name=name, observed=value, expected=1.0, benign_high=1.0, unit="ratio")
        for name, value in ratios
    )


def _duration(hours: float) -> str:
    if hours >= 48:
        return f"{hours / 24:,.0f} days"
    if hours >= 1:
        minutes = int(hours * 60)
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{max(round(hours * 60), 1)} min"
