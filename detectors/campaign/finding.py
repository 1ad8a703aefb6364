"""A campaign finding, and the alert a person reads about it."""

from __future__ import annotations

from math import exp, log
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from detectors.alert import FAMILY_TECHNIQUES, LEVELS, Alert, Evidence, Feature, alert_id
from detectors.campaign.pace import CAMPAIGN_BUDGETS, HONEST_VARIANCE
from detectors.explain import CODE_VERSION, e_value_log10
from detectors.watch import BUDGETS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from detectors.batch import EventBatch

LinkKind = Literal["content", "behaviour", "declared"]

_WHAT: dict[LinkKind, str] = {
    "content": "ask for the same things",
    "behaviour": "are odd in the same way",
    "declared": "belong to one customer and are odd together",
}


class CampaignFinding(NamedTuple):
    """Keys that are one, as of one event."""

    row: int
    """Row of the batch whose event completed it."""
    slots: NDArray[np.int64]
    """The members' slots, ascending."""
    kind: LinkKind
    """What links them: what they ask, how it is odd, or that they are known to be one customer's."""
    level: int
    """1 notice, 2 warning, 3 critical."""
    p_value: float
    """Bound on the chance of one such finding among the honest keys of a model in a week; for declared links
    the share of honest keys that look this odd in their lifetime."""
    counts: NDArray[np.int64]
    """Queries of each member in all."""
    agreement: float
    """Median cosine of what members ask since they were linked with what linked them."""


def make_campaign_alert(
    finding: CampaignFinding,
    members: Sequence[str],
    batch: EventBatch,
    reference_version: str,
    first_offset: int,
) -> Alert:
    """Write the alert for a finding completed by a row of `batch`.

    Parameters
    ----------
    finding, members
        The finding, and the key references of its members in the same order.
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
    key = members[int(np.argmax(finding.counts))]
    surprise = -log(finding.p_value)
    e_value = e_value_log10(surprise)
    return Alert(
        alert_id=alert_id(*place, "campaign", key, model, level),
        time_ms=int(batch.time_ms[row]),
        subject="campaign",
        key=key,
        members=tuple(sorted(members)),
        model=model,
        level=level,
        key_p_value=finding.p_value,
        e_value_log10=e_value,
        extrapolated=True,
        families=("campaign",),
        evidence=(
            Evidence(
                family="campaign", key_p_value=finding.p_value, e_value_log10=e_value, extrapolated=True
            ),
        ),
        features=_features(finding),
        techniques=FAMILY_TECHNIQUES["campaign"],
        query_count=int(finding.counts.sum()),
        topic=batch.topic,
        partition=place[1],
        offset=place[2],
        first_offset=first_offset,
        code_version=CODE_VERSION,
        reference_version=reference_version,
        would_not_have_fired=_counterfactual(finding),
        sentence=_sentence(finding, model),
    )


def _spread(finding: CampaignFinding) -> float:
    """Return the standard deviation of ln queries between members."""
    return float(np.log(finding.counts + 0.5).std(ddof=1))


def _features(finding: CampaignFinding) -> tuple[Feature, ...]:
    honest = HONEST_VARIANCE**0.5
    return (
        Feature(name="keys", observed=len(finding.slots), expected=1.0, benign_high=1.0, unit="keys"),
        Feature(
            name="volume_spread",
            observed=_spread(finding),
            expected=honest,
            benign_high=honest,
            unit="sd of ln",
        ),
        Feature(name="agreement", observed=finding.agreement, expected=0.0, benign_high=1.0, unit="cosine"),
    )


def _sentence(finding: CampaignFinding, model: str) -> str:
    total = int(finding.counts.sum())
    who = f"{len(finding.slots)} keys with {total:,} queries to {model} {_WHAT[finding.kind]}"
    if finding.kind == "declared":
        odds = round(1 / BUDGETS[finding.level - 1])
        return f"{who}. Fewer than 1 in {odds:,} honest keys ever get this far."
    odds = round(1 / CAMPAIGN_BUDGETS[finding.level - 1])
    factor = exp(HONEST_VARIANCE**0.5)
    return (
        f"{who} and share the work like one queue: their volumes typically differ by "
        f"{exp(_spread(finding)) - 1:.0%}, those of honest customers by a factor of {factor:.1f} or more. "
        f"By chance there is less than one such group in {odds:,} weeks."
    )


def _counterfactual(finding: CampaignFinding) -> str:
    """Say what would have kept the alert from firing."""
    if finding.kind == "declared":
        return "It would not have fired had the keys, taken as one, looked like an honest key of this model."
    factor = exp(HONEST_VARIANCE**0.5)
    return (
        f"It would not have fired had the keys asked in volumes that differ by a factor of {factor:.1f}, as "
        f"those of honest customers do, or gone on to different things after they were linked."
    )
