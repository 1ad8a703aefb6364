"""The catalogue as files: `deploy/metrics.json` for programs, `deploy/docs/metrics.md` for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from sinks.metrics.catalogue import CATALOGUE, MAX_FLAGGED_KEYS
from sinks.metrics.definition import COMPONENTS, Histogram

DEPLOY = Path(__file__).resolve().parent.parent.parent / "deploy"

_HEAD = """\
# Metrics

Made from the catalogue by `python -m sinks.metrics`; `modelwarden metrics list` shows the same. No label
holds a key: `key_ref` is the reference of a flagged key, and a worker shows at most {flagged} of them.
Where a label has no listed values, their number is bounded as said.
"""


def entries() -> list[dict[str, Any]]:
    """Return the catalogue as plain values, in order."""
    return [
        {
            "name": metric.name,
            "kind": metric.kind,
            "unit": metric.unit,
            "help": metric.help,
            "tells": metric.tells,
            "components": list(metric.components),
            "labels": {
                label.name: list(label.values) or f"at most {label.at_most} values" for label in metric.labels
            },
            "buckets": list(metric.buckets) if isinstance(metric, Histogram) else [],
            "most_series": metric.series,
        }
        for metric in CATALOGUE.values()
    ]


def as_json() -> bytes:
    """Return the catalogue as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(entries())) + b"\n"


def as_markdown() -> str:
    """Return the catalogue as a document."""
    lines = [_HEAD.format(flagged=MAX_FLAGGED_KEYS)]
    for component in COMPONENTS:
        chosen = [metric for metric in CATALOGUE.values() if component in metric.components]
        most = sum(metric.series for metric in chosen)
        lines.append(f"## {component}\n\nAt most {most:,} series a process.\n")
        lines.append("| metric | kind | labels | what it is | what it tells |\n|---|---|---|---|---|")
        lines += [
            f"| `{metric.name}` | {metric.kind} | {', '.join(metric.label_names) or '-'} "
            f"| {metric.help} | {metric.tells} |"
            for metric in chosen
        ]
        lines.append("")
    return "\n".join(lines)


def documents() -> dict[Path, bytes]:
    """Return every document made from the catalogue, by its path."""
    return {
        DEPLOY / "metrics.json": as_json(),
        DEPLOY / "docs" / "metrics.md": as_markdown().encode(),
    }
