"""The dashboard that says who steals, how sure that is and what was done."""

from __future__ import annotations

from typing import Any

from deploy.grafana.panels import Rows, assemble, base, busy, lines, more, number, quantile, rows

LEVEL = "modelwarden_flagged_key_level"

ROWS: Rows = (
    (
        "Now",
        (
            number(
                1,
                "Keys at critical",
                "Flagged at the highest level, not counting budgets",
                "short",
                (f'count({LEVEL}{{family!="budget"}} == 3) or vector(0)', ""),
                red=1,
            ),
            number(
                9,
                "Breaker",
                "1: revocations are held back",
                "short",
                ("max(modelwarden_breaker_open)", ""),
                red=1,
            ),
            number(
                11,
                "Canary",
                "Since the synthetic attack was last caught",
                "s",
                ("time() - min(modelwarden_canary_last_caught_timestamp_seconds)", ""),
                red=600,
            ),
            number(
                8,
                "Policy",
                "The mode in force",
                "short",
                ("max by (mode) (modelwarden_policy_mode) == 1", "{{mode}}"),
            ),
            rows(
                2,
                "Most suspicious keys",
                "Level 1 notice, 2 warning, 3 critical",
                f'topk(20, max by (key_ref, model, family) ({LEVEL}{{family!~"budget|campaign|model"}}))',
                width=14,
            ),
            rows(
                3,
                "Campaigns, models and budgets",
                "Keys that act as one; models with many odd keys; keys that hold what a copy needs",
                f'topk(20, max by (key_ref, model, family) ({LEVEL}{{family=~"budget|campaign|model"}}))',
                width=10,
            ),
        ),
    ),
    (
        "Findings",
        (
            lines(4, "Alerts", "By level", "short", (more("modelwarden_alerts_total", "level"), "{{level}}")),
            lines(
                16,
                "Families",
                "Which way of stealing is seen",
                "short",
                (busy("modelwarden_findings_total", "family"), "{{family}}"),
            ),
        ),
    ),
    (
        "What was done",
        (
            lines(
                5,
                "Commands",
                "By action",
                "short",
                (busy("modelwarden_commands_total", "action"), "{{action}}"),
            ),
            lines(
                7,
                "Oldest command nobody acknowledged",
                "By action",
                "s",
                ("max by (action) (modelwarden_command_oldest_unacknowledged_seconds)", "{{action}}"),
            ),
            lines(
                6,
                "From command to enforcement",
                "How fast mitigation takes hold",
                "s",
                (quantile(0.99, "modelwarden_command_issued_to_enforced_seconds"), "99 %"),
                (quantile(0.5, "modelwarden_command_issued_to_enforced_seconds"), "50 %"),
            ),
            lines(
                14,
                "Revocations",
                "At the key store, by outcome, and orders that wait or were given up",
                "short",
                (more("modelwarden_revocations_total", "outcome"), "{{outcome}}"),
                ("sum by (state) (modelwarden_revocation_orders)", "{{state}} in the outbox"),
            ),
        ),
    ),
    (
        "Can it be trusted",
        (
            lines(
                10,
                "Honest among those looked at, 7 days",
                "False alarms that people found",
                "percentunit",
                ("modelwarden:honest_verdicts:ratio_7d or vector(0)", "share"),
                width=5,
            ),
            lines(
                12,
                "Canary",
                "From the last synthetic event to its alert",
                "s",
                (quantile(0.99, "modelwarden_canary_catch_seconds"), "99 %"),
                (more('modelwarden_canary_rounds_total{outcome="missed"}'), "missed"),
                width=5,
            ),
            lines(
                13,
                "Refused",
                "Policies, and commands at serving layers",
                "short",
                (more("modelwarden_policy_refused_total"), "policies"),
                (more("modelwarden_enforcer_commands_refused_total", "reason"), "{{reason}}"),
                (more("modelwarden_commands_rewritten_total"), "hidden on their topic"),
                width=6,
            ),
            lines(
                15,
                "Audit chain",
                "Places at which it does not hold",
                "short",
                ("sum(modelwarden_audit_chain_breaks_total)", "breaks"),
                width=4,
            ),
            lines(
                17,
                "Audit chain checked",
                "Since it was last read whole",
                "s",
                ("time() - max(modelwarden_audit_verified_timestamp_seconds)", "ago"),
                width=4,
            ),
        ),
    ),
)


def security() -> Any:
    """Return the dashboard."""
    tells = "Who copies a model, how sure is that, what was done?"
    return assemble(base("modelwarden-security", "Modelwarden: security", tells), ROWS)
