"""The dashboard that says whether detection works, and keeps up."""

from __future__ import annotations

from typing import Any

from deploy.grafana.panels import Rows, assemble, base, busy_pace, lines, more, number, pace, quantile

ROWS: Rows = (
    (
        "The stream",
        (
            number(
                1, "Workers that answer", "Scraped now", "short", ('sum(up{job="modelwarden-worker"})', "")
            ),
            number(
                5,
                "Time to catch up",
                "Lag by the pace of the last 5 minutes",
                "s",
                ("modelwarden:lag_drain:seconds", ""),
                red=300,
            ),
            number(
                9,
                "Enforcers' last contact",
                "Since Kafka last answered a serving layer's enforcer; the worst of them",
                "s",
                ("max(modelwarden_enforcer_contact_age_seconds)", ""),
                red=60,
            ),
            number(
                12,
                "Grafana",
                "1: the annotation writer reaches it",
                "short",
                ("min(modelwarden_grafana_up)", ""),
            ),
            lines(
                2,
                "Consumer lag",
                "Records that wait",
                "short",
                ("sum by (topic) (modelwarden_consumer_lag_records)", "{{topic}}"),
            ),
            lines(
                3,
                "Throughput",
                "Events processed a second",
                "reqps",
                (pace("modelwarden_events_total"), "events"),
            ),
            lines(
                4,
                "Detection latency",
                "From an event's arrival to its verdict; the objective is 99 % within 1 s",
                "s",
                ("modelwarden:detection_latency:p99_5m", "99 %"),
                (quantile(0.5, "modelwarden_detection_latency_seconds"), "50 %"),
            ),
            lines(
                14,
                "Refused messages",
                "Dead-lettered a second, by reason",
                "reqps",
                (busy_pace("modelwarden_rejections_total", "reason"), "{{reason}}"),
            ),
        ),
    ),
    (
        "State",
        (
            lines(
                6,
                "State",
                "Bytes of keys' state, and what it may grow to",
                "bytes",
                ("sum(modelwarden_state_bytes)", "now"),
                ("sum(modelwarden_state_limit_bytes)", "limit"),
                width=8,
            ),
            lines(
                7, "Keys", "Keys kept in full", "short", ("sum(modelwarden_keys_tracked)", "keys"), width=8
            ),
            lines(
                8,
                "Snapshots",
                "Age of the oldest change that none holds, and how long they take",
                "s",
                ("max(modelwarden_snapshot_age_seconds)", "age"),
                (quantile(0.99, "modelwarden_snapshot_seconds"), "99 % take"),
                width=8,
            ),
        ),
    ),
    (
        "Around it",
        (
            lines(
                10,
                "Events lost before Kafka",
                "Dropped by serving processes a second, and sketches left out",
                "reqps",
                (pace("modelwarden_emit_dropped_events_total", "reason"), "{{reason}}"),
                (pace("modelwarden_emit_shed_sketches_total", "sketch"), "without {{sketch}}"),
                width=8,
            ),
            lines(
                11,
                "Annotations",
                "Waiting on disk, and what became of the others",
                "short",
                ("sum(modelwarden_annotations_spooled)", "waiting"),
                (more("modelwarden_annotations_written_total"), "written"),
                (more("modelwarden_annotations_coalesced_total"), "coalesced"),
                (more("modelwarden_annotations_dropped_total"), "dropped"),
                width=8,
            ),
            lines(
                13,
                "Series",
                "Exported by all processes",
                "short",
                ('count({__name__=~"modelwarden_.+"})', "series"),
                width=8,
            ),
        ),
    ),
)


def health() -> Any:
    """Return the dashboard."""
    tells = "Does detection work, and does it keep up?"
    return assemble(base("modelwarden-health", "Modelwarden: health", tells), ROWS)
