"""OCSF: every export has the shape of the published class, and says what was done."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import jsonschema
import msgspec
import pytest
from alerts import make_alert
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from detectors.alert import FAMILY_TECHNIQUES, LEVELS, Feature
from sinks.ocsf import detection_finding
from sinks.policy import PolicyEngine
from sinks.policyfile import load_policy
from sinks.records import Decision, Feedback
from sinks.signing import Signer

SCHEMA = json.loads((files("deploy") / "ocsf" / "detection_finding.1.4.0.json").read_text())
POLICY = msgspec.structs.replace(load_policy(None, "enforce"), holdout_share=0.0)


def valid(finding: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(msgspec.json.encode(finding))
    jsonschema.Draft202012Validator(SCHEMA).validate(plain)
    return plain


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("family", sorted(FAMILY_TECHNIQUES))
def test_every_family_and_level_has_the_shape(level: Any, family: Any) -> None:
    alert = make_alert(
        level=level,
        families=(family,),
        techniques=FAMILY_TECHNIQUES[family],
        features=(Feature(name="distance", observed=3.0, expected=1.0, benign_high=2.0),),
    )
    finding = valid(detection_finding(alert))
    assert (finding["class_uid"], finding["type_uid"], finding["activity_id"]) == (2004, 200401, 1)
    uids = [attack["technique"]["uid"] for attack in finding["finding_info"]["attacks"]]
    assert uids == list(FAMILY_TECHNIQUES[family])
    assert finding["metadata"]["uid"] == alert.alert_id


def test_what_was_decided_is_an_update_and_a_restore_closes_it() -> None:
    engine = PolicyEngine(POLICY, Signer(Ed25519PrivateKey.generate()))
    alert = make_alert(level="critical")
    decision = engine.decide(alert)
    assert decision is not None
    updated = valid(detection_finding(alert, [decision]))
    assert (updated["activity_id"], updated["action_id"], updated["disposition_id"]) == (2, 2, 2)
    word = Feedback(
        key=alert.key,
        verdict="honest",
        author="a",
        reason="r",
        time_ms=alert.time_ms + 5,
        alert_id=alert.alert_id,
    )
    closed = valid(detection_finding(alert, [decision, engine.forgive(word)]))
    assert (closed["activity_id"], closed["status"], closed["disposition_id"]) == (3, "Resolved", 9)
    assert [one["action"] for one in closed["unmapped"]["decisions"]] == ["suspend", "restore"]


def test_what_was_only_observed_says_so() -> None:
    decision: Decision | None = PolicyEngine(load_policy(None)).decide(make_alert())
    assert decision is not None
    finding = valid(detection_finding(make_alert(), [decision]))
    assert (finding["action_id"], finding["disposition_id"]) == (3, 17)
