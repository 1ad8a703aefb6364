"""Grafana's own alert rules, made from the rules that Prometheus has: one truth, two evaluators.

Rules about Grafana itself stay with Prometheus and Alertmanager alone. Grafana's importer would set
execErrState to OK, so that all rules go quiet when Prometheus is down; here a page's rule fires then.
"""

from __future__ import annotations

from hashlib import blake2b
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sinks.grafana.config import OncallConfig

FOLDER_UID = "modelwarden"
DATA_SOURCE_UID = "modelwarden-prometheus"
LEFT_TO_PROMETHEUS = frozenset({"modelwarden-recording", "modelwarden-meta"})
_QUERY_WINDOW_S = 600
_EXPRESSION = {"type": "__expr__", "uid": "__expr__"}


def load_rule_groups() -> list[dict[str, Any]]:
    """Return the groups of `deploy/prometheus/modelwarden.rules.yml`."""
    text = files("deploy").joinpath("prometheus/modelwarden.rules.yml").read_text(encoding="utf-8")
    groups: list[dict[str, Any]] = yaml.safe_load(text)["groups"]
    return groups


def alert_labels() -> dict[str, dict[str, str]]:
    """Return the fixed labels of every alert, by its name."""
    return {
        rule["alert"]: rule["labels"]
        for group in load_rule_groups()
        for rule in group["rules"]
        if "alert" in rule
    }


def alert_groups(groups: Iterable[dict[str, Any]], config: OncallConfig) -> list[dict[str, Any]]:
    """Return the rule groups as Grafana's provisioning API takes them.

    Parameters
    ----------
    groups : iterable of dict
        Of a Prometheus rule file.
    config : OncallConfig
        Says who is told, and where the runbooks are.
    """
    return [
        {
            "title": group["name"],
            "folderUid": FOLDER_UID,
            "interval": int(group["interval"].removesuffix("s")),
            "rules": [_rule(group["name"], rule, config) for rule in group["rules"]],
        }
        for group in groups
        if group["name"] not in LEFT_TO_PROMETHEUS
    ]


def _rule(group: str, rule: dict[str, Any], config: OncallConfig) -> dict[str, Any]:
    name, labels = rule["alert"], rule["labels"]
    made = {
        "uid": "mw-" + blake2b(f"{group}/{name}".encode(), digest_size=12).hexdigest(),
        "orgID": 1,
        "folderUID": FOLDER_UID,
        "ruleGroup": group,
        "title": name,
        "condition": "C",
        "data": _nodes(rule["expr"].strip()),
        "noDataState": "OK",  # an empty answer to PromQL means: not firing
        "execErrState": "Alerting" if labels["severity"] == "page" else "Error",
        "for": rule.get("for", "0s"),
        "keep_firing_for": rule.get("keep_firing_for", "0s"),
        "labels": labels,
        "annotations": {name: _annotation(name, text, config) for name, text in rule["annotations"].items()},
        "isPaused": False,
    }
    settings = config.notification_settings(labels)
    return made if settings is None else {**made, "notification_settings": settings}


def _annotation(name: str, text: str, config: OncallConfig) -> str:
    if name == "runbook_url":
        return config.runbooks_url + text.removeprefix("deploy/runbooks/")
    # Grafana's $value is a description of all values; its $values.A.Value is the number.
    return text.replace("$value ", "$values.A.Value ")


def _nodes(expr: str) -> list[dict[str, Any]]:
    """Query, then whether there is a number at all, then the condition: what Grafana's importer makes too."""
    prometheus = {"type": "prometheus", "uid": DATA_SOURCE_UID}
    query = {"refId": "A", "expr": expr, "instant": True, "range": False, "datasource": prometheus}
    number = {
        "refId": "B",
        "type": "math",
        "expression": "is_number($A) || is_nan($A) || is_inf($A)",
        "datasource": _EXPRESSION,
    }
    condition = {
        "refId": "C",
        "type": "threshold",
        "expression": "B",
        "conditions": [{"evaluator": {"type": "gt", "params": [0]}}],
        "datasource": _EXPRESSION,
    }
    return [
        _node(query, DATA_SOURCE_UID, _QUERY_WINDOW_S),
        _node(number, "__expr__", 0),
        _node(condition, "__expr__", 0),
    ]


def _node(model: dict[str, Any], source: str, window_s: int) -> dict[str, Any]:
    return {
        "refId": model["refId"],
        "datasourceUid": source,
        "relativeTimeRange": {"from": window_s, "to": 0},
        "model": model,
    }
