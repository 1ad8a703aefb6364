"""The dashboard of one flagged key."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.models.dashboard import VariableRefresh

from deploy.grafana.panels import SOURCE, WIDTH, Rows, assemble, base, lines

CHOSEN = '{key_ref="$key_ref"}'

ROWS: Rows = (
    (
        "",
        (
            lines(
                1,
                "Level of $key_ref",
                "1 notice, 2 warning, 3 critical",
                "short",
                (f"max by (model, family) (modelwarden_flagged_key_level{CHOSEN})", "{{model}}: {{family}}"),
                width=WIDTH,
            ),
            lines(
                2,
                "Evidence against $key_ref",
                "Base-10 logarithm of the e-value: 2 is once in a hundred honest keys or less",
                "short",
                (f"max by (model) (modelwarden_flagged_key_evidence_log10{CHOSEN})", "{{model}}"),
                width=WIDTH,
            ),
        ),
    ),
)


def one_key() -> Any:
    """Return the dashboard; its variable offers the keys that are flagged in the time shown."""
    variable = (
        build.QueryVariable("key_ref")
        .label("Key")
        .datasource(SOURCE)
        .query("label_values(modelwarden_flagged_key_level, key_ref)")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
    )
    tells = "What was found about a key, and when; the key itself is nowhere here."
    return assemble(base("modelwarden-key", "Modelwarden: one key", tells).with_variable(variable), ROWS)
