"""The same alert rules and routes, made quick: every duration in them divided, and nothing else changed.

What a `for` of 10 minutes means cannot be seen in a test of two; that rules fire, resolve and are routed can.
Thresholds that are seconds are divided too. The rules under their own durations are tested by promtool.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml
from rulebook import DEPLOY, RULES_FILE

if TYPE_CHECKING:
    from collections.abc import Callable

SCRAPE_S = 2
LEAST_FOR_S = 8
"""On a busy machine a process may not answer for some seconds, and that is no trouble."""
LEAST_RANGE_S = 8
"""Of a range in PromQL: some scrapes must lie in it."""
_DURATION = re.compile(r"(\d+)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SECONDS_THRESHOLD = re.compile(r"(\bmodelwarden\w*_seconds\w*(?:\{[^}]*\})?\)?|drain:seconds) > (\d+)")


def _scale(divisor: float, least_s: int = 0) -> Callable[[re.Match[str]], str]:
    def scale(match: re.Match[str]) -> str:
        seconds = int(match[1]) * _SECONDS[match[2]]
        return f"{max(round(seconds / divisor), least_s, 1 if seconds else 0)}s"

    return scale


def scale_rules(divisor: float) -> dict[str, Any]:
    """Return the rule file with all times divided."""
    document: dict[str, Any] = yaml.safe_load(RULES_FILE.read_text())
    for group in document["groups"]:
        group["interval"] = f"{SCRAPE_S}s"
        for rule in group["rules"]:
            expr = re.sub(r"(?<=\[)\d+[smhd](?=\])", _each(_scale(divisor, LEAST_RANGE_S)), rule["expr"])
            expr = re.sub(r"(?<=offset )\d+[smhd]", _each(_scale(divisor)), expr)
            rule["expr"] = _SECONDS_THRESHOLD.sub(lambda m: f"{m[1]} > {int(m[2]) / divisor:g}", expr)
            for name, least_s in (("for", LEAST_FOR_S), ("keep_firing_for", 0)):
                if name in rule:
                    rule[name] = _DURATION.sub(_scale(divisor, least_s), rule[name])
    return document


def _each(scale: Callable[[re.Match[str]], str]) -> Callable[[re.Match[str]], str]:
    return lambda match: _DURATION.sub(scale, match[0])


def scale_routes(divisor: float, receiver: str) -> dict[str, Any]:
    """Return the Alertmanager's configuration with its waits divided and its webhooks at `receiver`."""
    text = (DEPLOY / "alertmanager" / "alertmanager.yml").read_text()
    document: dict[str, Any] = yaml.safe_load(text.replace("http://127.0.0.1:9095", receiver))
    for route in [document["route"], *document["route"]["routes"]]:
        for name in ("group_wait", "group_interval"):
            if name in route:
                route[name] = _DURATION.sub(_scale(divisor), route[name])
    return document
