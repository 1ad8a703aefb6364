"""From a finding about a model's keys together to an alert a person can read."""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

from detectors.alert import FAMILY_TECHNIQUES, LEVELS, Alert, Evidence, Feature, alert_id
from detectors.explain import CODE_VERSION, e_value_log10
from detectors.modelalarm import MODEL_BUDGETS, TRIMMED_KEYS, WINDOW

if TYPE_CHECKING:
    from collections.abc import Sequence

    from detectors.batch import EventBatch
    from detectors.modelalarm import ModelFinding

_LEAST_P_VALUE = 1e-12


def make_model_alert(
    finding: ModelFinding,
    members: Sequence[str],
    batch: EventBatch,
    reference_version: str,
    first_offset: int,
) -> Alert:
    """Write the alert for a finding completed by a row of `batch`.

    Parameters
    ----------
    finding, members
        The finding, and the key references of its keys in the same order.
    batch
        The batch that completed it.
    reference_version
        What keys were compared with.
    first_offset
        Offset of the members' first event.
    """
    row = finding.row
    model = batch.models[batch.model[row]]
    level = LEVELS[finding.level - 1]
    place = batch.topic, int(batch.partition[row]), int(batch.offset[row])
    p_value = min(max(finding.false_alarms, _LEAST_P_VALUE), 1.0)
    e_value = e_value_log10(-log(p_value))
    return Alert(
        alert_id=alert_id(*place, "model", model, level),
        time_ms=int(batch.time_ms[row]),
        subject="model",
        key=members[0],
        members=tuple(members),
        model=model,
        level=level,
        key_p_value=p_value,
        e_value_log10=e_value,
        extrapolated=True,
        families=("model",),
        evidence=(Evidence(family="model", key_p_value=p_value, e_value_log10=e_value, extrapolated=True),),
        features=_features(finding, len(members)),
        techniques=FAMILY_TECHNIQUES["model"],
        query_count=WINDOW,
        topic=batch.topic,
        partition=place[1],
        offset=place[2],
        first_offset=first_offset,
        code_version=CODE_VERSION,
        reference_version=reference_version,
        would_not_have_fired=(
            f"It would not have fired had no more than {TRIMMED_KEYS} keys been odd at a time, or had those "
            f"that were looked like honest keys of this model by themselves."
        ),
        sentence=_sentence(finding, len(members), model),
    )


def _features(finding: ModelFinding, odd_keys: int) -> tuple[Feature, ...]:
    high = TRIMMED_KEYS / finding.key_count
    return (
        Feature(name="odd_share", observed=finding.share, expected=0.0, benign_high=high, unit="ratio"),
        Feature(name="odd_keys", observed=odd_keys, expected=0.0, benign_high=TRIMMED_KEYS, unit="keys"),
    )


def _sentence(finding: ModelFinding, odd_keys: int, model: str) -> str:
    weeks = round(1 / MODEL_BUDGETS[finding.level - 1])
    return (
        f"{finding.share:.0%} of the last {WINDOW} queries to {model} come from {odd_keys} keys that are odd "
        f"at the same time, out of {finding.key_count} then active; each alone could be a customer. "
        f"Honest traffic looks like this less than once in {weeks:,} weeks."
    )
