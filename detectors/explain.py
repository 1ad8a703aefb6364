"""From a reached level to an alert a person can read: evidence, features, one plain sentence."""

from __future__ import annotations

from math import exp, isfinite, log, nan
from typing import TYPE_CHECKING

import numpy as np

from detectors.alert import FAMILY_TECHNIQUES, LEVELS, Alert, Evidence, Feature, alert_id
from detectors.batch import format_key_reference
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
_UNITS = {"label_flip": "ratio", "near_copy": "ratio", "rate": "log10 queries/h"}
_SMALLEST = 1e-300


def make_alert(
    reached: Reached, batch: EventBatch, watch: Watch, query_count: int, first_offset: int
) -> Alert:
    """Write the alert for a row of `batch` at which a key, with so many queries, reached a level."""
    row = reached.row
    key_reference = watch.reference.key
    key = format_key_reference(batch.key_epoch[row], *batch.key[row])
    model = batch.models[batch.model[row]]
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
        tenant=_name(batch.tenants, int(batch.tenant[row])),
        plan=_name(batch.plans, int(batch.plan[row])),
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
    )


def agreeing(reached: Reached) -> tuple[Family, ...]:
    """Return the families that are by themselves as odd as the notice budget, strongest first.

    The strongest is always among them.
    """
    order = np.argsort(-reached.by_family, kind="stable")
    return tuple(FAMILIES[f] for i, f in enumerate(order) if i == 0 or reached.by_family[f] >= THRESHOLDS[0])


def e_value_log10(surprise: float) -> float:
    """Turn a p-value into an e-value by the calibrator 1 / (2 sqrt(p)) (Vovk and Wang, Annals of Stat. 2021).

    Valid for the lifetime of a key, because the p-value is of the largest surprise over it.
    """
    return (surprise / 2 - log(2)) / log(10)


def _evidence(reached: Reached, key_reference: KeyReference) -> tuple[Evidence, ...]:
    smallest = 1.0 / (int(key_reference.key_count[0]) + 1)
    return tuple(
        Evidence(
            family=FAMILIES[f],
            key_p_value=max(exp(-float(reached.by_family[f])), _SMALLEST),
            e_value_log10=_e_detector(FAMILIES[f], reached),
            extrapolated=exp(-float(reached.by_family[f])) < smallest,
        )
        for f in np.argsort(-reached.by_family, kind="stable")
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
    top = _top(reached)
    budget = BUDGETS[reached.level - 1]
    what = " and ".join(dict.fromkeys(STATISTICS[s].value.sentence for s in top[:2]))
    first = STATISTICS[top[0]]
    observed, expected = float(reached.mean[top[0]]), float(key_reference.median[top[0]])
    window = f"of its last {first.horizon} queries" if first.horizon > 1 else "now"
    measure = (
        f"{observed:.0%} {window} against {expected:.0%} for a typical key"
        if _UNITS.get(first.value.name) == "ratio"
        else f"{observed:.2f} {window} against {expected:.2f} for a typical key"
    )
    return (
        f"After {query_count} queries to {model} this key sends {what} ({first.name}: {measure}); "
        f"fewer than {_one_in(budget)} honest keys ever look like this."
    )


def _one_in(budget: float) -> str:
    return f"1 in {round(1 / budget):,}"


def _counterfactual(reached: Reached) -> str:
    """Say what would have kept the alert from firing."""
    s = _top(reached)[0]
    short = float(reached.surprise - THRESHOLDS[reached.level - 1])
    value = STATISTICS[s].value.sentence
    return (
        f"Fewer {value}: the evidence exceeds this level's bound by {short:.1f} nats, and "
        f"{STATISTICS[s].name} carries most of it."
    )


def _name(names: tuple[str, ...], index: int) -> str | None:
    return names[index] if index >= 0 else None
