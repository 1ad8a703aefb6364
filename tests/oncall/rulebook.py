"""The alert rules as data, for the tests of alerting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
RULES_FILE = DEPLOY / "prometheus" / "modelwarden.rules.yml"


def load_groups() -> list[dict[str, Any]]:
    """The groups of the rule file."""
    groups: list[dict[str, Any]] = yaml.safe_load(RULES_FILE.read_text())["groups"]
    return groups


def load_alerts() -> dict[str, dict[str, Any]]:
    """Every alert rule by its name."""
    return {rule["alert"]: rule for group in load_groups() for rule in group["rules"] if "alert" in rule}
