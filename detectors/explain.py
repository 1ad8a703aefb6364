"""From a reached level to an alert a person can read: evidence, features, one plain sentence."""

from __future__ import annotations

from math import exp, isfinite, log, nan
from typing import TYPE_CHECKING

import numpy as np

from detectors.alert import FAMILY_TECHNIQUES, LEVELS, Alert, Evidence, Feature, alert_id
from detectors.statistics import BETS, FAMILIES, STATISTICS, VALUES
from detectors.watch import BUDGETS, THRESHOLDS

if TYPE_CHECKING:
    from detectors.alert import Family
    from detectors.batch import EventBatch
    from detectors.reference import KeyReference
    from detectors.watch import Reached, Watch

CODE_VERSION = "0.1.0"
"""Version of the detection code; part of every alert, so that a replay knows what it replays."""

TOP_FEATURES = 4
_RATIOS = ("label_flip", "near_copy", "probe", "midpoint")
_UNITS = {
    **dict.fromkeys(_RATIOS, "ratio"),
    "rate": "log10 queries/h",
    "unfamiliar": "-ln share",
    "logit_sweep": "log10 evidence",
}


def make_alert(
    reached: Reached, batch: EventBatch, watch: Watch, query_count: int, first_offset: int
) -> Alert:
    """Write the alert for a row of `batch` at which a key, with so many queries, reached a level."""
    row = reached.row
    key_reference = watch.reference.key
    key, model = batch.subject(row)
    level = LEVELS[reached.level - 1]
    place = batch.topic, int(batch.partition[row]), int(batch.offset[row])
    families = agreeing(reached)
    p_value = exp(-reached.surprise)
    extrapolated = p_value < 1.0 / (int(key_reference.key_count[0]) + 1)
    return Alert(
        alert_id=alert_id(*place, key, model, level),
        time_ms=int(batch.time_ms[row]),
        key=key,
        model=model,
        tenant=name_of(batch.tenants, int(batch.tenant[row])),
        plan=name_of(batch.plans, int(batch.plan[row])),
        level=level,
        key_p_value=p_value,
        e_value_log10=e_value_log10(reached.surprise),
        extrapolated=extrapolated,
        families=families,
        evidence=_evidence(reached, key_reference),
        features=_features(reached, key_reference),
        techniques=tuple(dict.fromkeys(t for f in families for t in FAMILY_TECHNIQUES[f])),
        query_count=query_count,
        topic=batch.topic,
        partition=place[1],
        offset=place[2],
        first_offset=first_offset,
        code_version=CODE_VERSION,
        reference_version=watch.version,
        would_not_have_fired=_counterfactual(reached),
        sentence=_sentence(reached, key_reference, query_count, model),
        extraction=reached.extraction,
    )


def agreeing(reached: Reached) -> tuple[Family, ...]:
    """Return the families that are by themselves as odd as the notice budget, strongest first.

    The strongest is always among them.
    """
    ranked = _ranked(reached)
    return tuple(f for i, (f, surprise) in enumerate(ranked) if i == 0 or surprise >= THRESHOLDS[0])


def _ranked(reached: Reached) -> list[tuple[Family, float]]:
    """Return the families with their surprises, strongest first; River where it has a verdict."""
    surprises: list[tuple[Family, float]] = list(zip(FAMILIES, reached.by_family.tolist(), strict=True))
    if isfinite(reached.river):
        surprises.append(("river", reached.river))
    return sorted(surprises, key=lambda pair: -pair[1])


def e_value_log10(surprise: float) -> float:
    """Turn a p-value into an e-value by the calibrator 1 / (2 sqrt(p)) (Vovk and Wang, Annals of Stat. 2021).

    Valid for the lifetime of a key, because the p-value is of the largest surprise over it.
    """
    return (surprise / 2 - log(2)) / log(10)


def _evidence(reached: Reached, key_reference: KeyReference) -> tuple[Evidence, ...]:
    smallest = 1.0 / (int(key_reference.key_count[0]) + 1)
    return tuple(
        Evidence(
            family=family,
            key_p_value=exp(-surprise),
            e_value_log10=_e_detector(family, reached),
            extrapolated=exp(-surprise) < smallest,
        )
        for family, surprise in _ranked(reached)
    )


def _e_detector(family: Family, reached: Reached) -> float | None:
    """Return the e-detector that bets on the family's p-values, if one does."""
    value = next((v.name for v in VALUES if v.family == family), "")
    log10 = float(reached.e_detector[BETS.index(value)]) if value in BETS else nan
    return log10 if isfinite(log10) else None


def _top(reached: Reached) -> list[int]:
    """Return the statistics that say most, one horizon a value, strongest first."""
    kept: dict[str, int] = {}
    for s in np.argsort(-reached.by_statistic, kind="stable"):
        if reached.by_statistic[s] > 0:
            kept.setdefault(STATISTICS[s].value.name, int(s))
    return list(kept.values())[:TOP_FEATURES]


def _features(reached: Reached, key_reference: KeyReference) -> tuple[Feature, ...]:
    return tuple(
        Feature(
            name=STATISTICS[s].name,
            observed=float(reached.mean[s]),
            expected=float(key_reference.median[s]),
            benign_high=float(key_reference.high[s]),
            unit=_UNITS.get(STATISTICS[s].value.name, "mean -log10 p"),
        )
        for s in _top(reached)
    )


def _sentence(reached: Reached, key_reference: KeyReference, query_count: int, model: str) -> str:
    first, *rest = _top(reached)
    told = [first, *(s for s in rest[:1] if reached.by_statistic[s] >= THRESHOLDS[0])]
    claims = [_claim(s, reached, key_reference, query_count) for s in told]
    odds = round(1 / BUDGETS[reached.level - 1])
    return (
        f"After {query_count} queries to {model}, this key's {'; and '.join(claims)}. "
        f"Fewer than 1 in {odds:,} honest keys ever get this far."
    )


def _claim(s: int, reached: Reached, key_reference: KeyReference, query_count: int) -> str:
    """Say what one statistic shows, beside what a typical key shows."""
    statistic = STATISTICS[s]
    last = f"of its last {min(statistic.horizon, query_count)} queries"
    observed, expected = float(reached.mean[s]), float(key_reference.median[s])
    match statistic.value.name:
        case "label_flip" | "near_copy" | "probe" | "midpoint":
            numbers = f"{observed:.0%} {last}, {expected:.0%} for a typical key"
        case "rate":
            numbers = f"{10**observed:,.0f} in the last hour, {10**expected:,.0f} for a typical key"
        case "unfamiliar":
            share, typical = exp(-observed), exp(-expected)
            numbers = f"{share:.1%} of its new ones are near others', {typical:.0%} for a typical key"
        case "logit_sweep":
            numbers = f"evidence of {10**observed:,.0f} times what one in 100,000 honest requests brings"
        case "strange" | "hard":
            numbers = f"as rare as 1 benign one in {10**observed:,.0f}; a typical key: {10**expected:,.0f}"
        case _:
            numbers = f"score {observed:.1f}, {expected:.1f} for a typical key"
    return f"{statistic.value.sentence} ({numbers})"


def _counterfactual(reached: Reached) -> str:
    """Say what would have kept the alert from firing."""
    statistic = STATISTICS[_top(reached)[0]]
    return (
        f"It would not have fired had the evidence been weaker by a factor of "
        f"{exp(float(reached.surprise - THRESHOLDS[reached.level - 1])):,.1f}; "
        f"most of it is {statistic.name}: {statistic.value.sentence}."
    )


def name_of(names: tuple[str, ...], index: int) -> str | None:
    """Return the name that an index column stands for; None where the event gave none."""
    return names[index] if index >= 0 else None
