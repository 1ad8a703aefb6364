"""Alerts as OCSF detection findings, class 2004, for a SIEM to take in without a mapping of its own.

OCSF 1.4.0, category Findings, class Detection Finding: https://schema.ocsf.io/1.4.0/classes/detection_finding.
What the class has no attribute for stands under `unmapped`. `deploy/ocsf/detection_finding.1.4.0.json` is
the shape that the tests hold against every export.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from detectors.alert import Alert, Level
    from sinks.records import Decision

OCSF_VERSION = "1.4.0"
CATEGORY_UID, CLASS_UID = 2, 2004
ACTIVITIES = {1: "Create", 2: "Update", 3: "Close"}
_SEVERITIES: dict[Level, tuple[int, str]] = {
    "notice": (2, "Low"),
    "warning": (3, "Medium"),
    "critical": (5, "Critical"),
}
_CONFIDENCES: dict[Level, tuple[int, str]] = {
    "notice": (1, "Low"),
    "warning": (2, "Medium"),
    "critical": (3, "High"),
}
ATLAS_VERSION = "5.6.1"
_TACTICS = {"AML.T0040": ("AML.TA0000", "AI Model Access"), "AML.T0042": ("AML.TA0001", "AI Attack Staging")}
_DISPOSITIONS: dict[str, int] = {"suspend": 2, "revoke": 24, "challenge": 23, "restore": 9, "watch": 17}
_TECHNIQUES = {
    "AML.T0024.002": "Extract AI Model",
    "AML.T0040": "AI Model Inference API Access",
    "AML.T0005.001": "Train Proxy via Replication",
    "AML.T0042": "Verify Attack",
    "AML.T0034.000": "Excessive Queries",
    "AML.T0021": "Establish Accounts",
}


def detection_finding(alert: Alert, decisions: Iterable[Decision] = ()) -> dict[str, Any]:
    """Return an alert, with what was decided about it, as one OCSF event.

    The finding is updated (activity 2) once a decision about it has been made, and closed (3) once its key
    was restored.
    """
    decided = sorted(decisions, key=lambda decision: decision.time_ms)
    is_closed = any(decision.action == "restore" for decision in decided)
    activity = 3 if is_closed else (2 if decided else 1)
    severity, confidence = _SEVERITIES[alert.level], _CONFIDENCES[alert.level]
    time_ms = decided[-1].time_ms if decided else alert.time_ms
    return {
        "activity_id": activity,
        "activity_name": ACTIVITIES[activity],
        "category_uid": CATEGORY_UID,
        "category_name": "Findings",
        "class_uid": CLASS_UID,
        "class_name": "Detection Finding",
        "type_uid": 100 * CLASS_UID + activity,
        "type_name": f"Detection Finding: {ACTIVITIES[activity]}",
        "time": time_ms,
        "start_time": alert.first_time_ms or alert.time_ms,
        "end_time": alert.time_ms,
        "severity_id": severity[0],
        "severity": severity[1],
        "confidence_id": confidence[0],
        "confidence": confidence[1],
        "status_id": 4 if is_closed else (2 if decided else 1),
        "status": "Resolved" if is_closed else ("In Progress" if decided else "New"),
        "is_alert": True,
        "message": alert.sentence,
        "metadata": {
            "version": OCSF_VERSION,
            "uid": alert.alert_id,
            "product": {"name": "Modelwarden", "vendor_name": "Modelwarden", "version": alert.code_version},
            "profiles": ["security_control"],
        },
        "finding_info": _finding_info(alert),
        "evidences": [{"data": _evidence(alert)}],
        "resources": [{"name": alert.model, "type": "AI model", "uid": alert.model}],
        "action_id": _action_id(decided),
        "disposition_id": _disposition_id(decided),
        "unmapped": {
            "tenant": alert.tenant,
            "plan": alert.plan,
            "offsets": f"{alert.topic}/{alert.partition}/{alert.first_offset}..{alert.offset}",
            "reference_version": alert.reference_version,
            "decisions": [_told(decision) for decision in decided],
        },
    }


def _finding_info(alert: Alert) -> dict[str, Any]:
    return {
        "uid": alert.alert_id,
        "title": f"API key may be copying model {alert.model}",
        "desc": alert.sentence,
        "created_time": alert.time_ms,
        "first_seen_time": alert.first_time_ms or alert.time_ms,
        "last_seen_time": alert.time_ms,
        "types": list(alert.families),
        "analytic": {
            "name": "Modelwarden",
            "type_id": 4,
            "type": "Learning (ML/DL)",
            "version": alert.code_version,
        },
        "attacks": [_attack(technique) for technique in alert.techniques],
    }


def _attack(technique: str) -> dict[str, Any]:
    tactic_uid, tactic = _TACTICS.get(technique, ("AML.TA0010", "Exfiltration"))
    return {
        "technique": {"uid": technique, "name": _TECHNIQUES.get(technique, technique)},
        "tactic": {"uid": tactic_uid, "name": tactic},
        "version": ATLAS_VERSION,
    }


def _evidence(alert: Alert) -> dict[str, Any]:
    return {
        "key": alert.key,
        "model": alert.model,
        "members": list(alert.members),
        "query_count": alert.query_count,
        "key_p_value": alert.key_p_value,
        "e_value_log10": alert.e_value_log10,
        "extrapolated": alert.extrapolated,
        "features": [
            {"name": f.name, "observed": f.observed, "expected": f.expected, "unit": f.unit}
            for f in alert.features
        ],
        "would_not_have_fired": alert.would_not_have_fired,
    }


def _action_id(decided: list[Decision]) -> int:
    """2 denied, 3 observed, 4 modified (security_control profile); 0 where nothing was decided."""
    commands = [decision.command for decision in decided if decision.command is not None]
    if not decided:
        return 0
    if not commands:
        return 3
    return {"suspend": 2, "revoke": 2, "watch": 3, "restore": 1}.get(commands[-1].action, 4)


def _disposition_id(decided: list[Decision]) -> int:
    """7 custom action, 2 blocked, 9 restored, 15 detected, 17 logged, 23 challenged, 24 access revoked."""
    commands = [decision.command for decision in decided if decision.command is not None]
    if not commands:
        return 17 if decided else 15
    return _DISPOSITIONS.get(commands[-1].action, 7)


def _told(decision: Decision) -> dict[str, Any]:
    return {
        "decision_id": decision.decision_id,
        "time": decision.time_ms,
        "rule": decision.rule,
        "policy_version": decision.policy_version,
        "mode": decision.mode,
        "action": decision.action,
        "withheld": decision.withheld,
        "command_id": None if decision.command is None else decision.command.command_id,
        "decided_by": decision.decided_by,
    }
