"""When each alert must be silent, fire and resolve: series as `promtool test rules` writes them."""

from __future__ import annotations

from dataclasses import dataclass

KEY = 'key_ref="k0-aa",model="digits"'


@dataclass(frozen=True)
class Case:
    """One course of events. Times are Prometheus durations since its beginning."""

    alert: str
    series: dict[str, str]
    silent: tuple[str, ...]
    fires: tuple[str, ...]
    resolved: str
    labels: str = ""
    """Labels that tell its instances apart."""
    interval: str = "1m"
    """Between the samples of the series."""
    evaluation: str = "30s"


def _level(family: str, instance: str = "w0") -> str:
    return f'modelwarden_flagged_key_level{{{KEY},family="{family}",instance="{instance}"}}'


CASES = (
    # Flagged twice, by two workers around a rebalance: one page, kept ten minutes after the flag is gone.
    Case(
        "KeyExtraction",
        {_level("rate"): "2x3 3x9 stale", _level("rate", "w1"): "_x8 3x5 stale"},
        ("3m",),
        ("4m", "9m", "20m"),
        "26m",
        KEY,
    ),
    Case("KeySuspected", {_level("rate"): "2x30 stale"}, ("9m",), ("11m", "35m"), "45m", KEY),
    Case("CampaignFound", {_level("campaign"): "1x3 2x5 stale"}, ("3m",), ("5m",), "25m", KEY),
    Case("ModelAttacked", {_level("model"): "1x3 2x5 stale"}, ("3m",), ("5m",), "25m", 'model="digits"'),
    Case("ExtractionBudgetSpent", {_level("budget"): "1x15 stale"}, ("9m",), ("11m",), "20m", KEY),
    Case(
        "AlertSurge",
        {'modelwarden_alerts_total{level="warning"}': "0+0.05x480 26.5+5x30 176x60"},
        ("20m", "8h"),
        ("8h20m",),
        "9h",
    ),
    Case(
        "CommandNotEnforced",
        {'modelwarden_command_oldest_unacknowledged_seconds{action="suspend"}': "0x2 90x4 0x5"},
        ("2m", "3m"),
        ("5m",),
        "9m",
        'action="suspend"',
    ),
    Case(
        "RevocationFailed",
        {
            'modelwarden_revocation_orders{state="dead"}': "0x5 2x20 0x10",
            'modelwarden_revocation_orders{state="pending"}': "9x40",
        },
        ("5m",),
        ("9m", "25m"),
        "29m",
    ),
    Case("BreakerTripped", {"modelwarden_breaker_open": "0x3 1x3 0x10"}, ("3m",), ("4m", "8m"), "12m"),
    Case(
        "CanaryMissed",
        {'modelwarden_canary_last_caught_timestamp_seconds{model="digits"}': "0+60x5 300x14 1200+60x10"},
        ("5m", "14m"),
        ("17m30s",),
        "23m",
        'model="digits"',
    ),
    Case(
        "CanaryAbsent",
        {'modelwarden_canary_last_caught_timestamp_seconds{model="digits"}': "_x20 1x10"},
        ("14m",),
        ("16m",),
        "22m",
    ),
    Case(
        "FalseAlarmsHigh",
        {
            'modelwarden_feedback_total{verdict="honest"}': "0+1x30 30x60",
            'modelwarden_feedback_total{verdict="guilty"}': "0+1x30 30+5x60",
        },
        ("5h",),
        ("20h",),
        "60h",
        interval="1h",
        evaluation="10m",
    ),
    Case(
        "FlaggedKeysLeftOut",
        {"modelwarden_flagged_keys_left_out_total": "0x3 0+2x10 20x40"},
        ("3m",),
        ("10m",),
        "30m",
    ),
    Case("PolicyRefused", {"modelwarden_policy_refused_total": "0x3 1x60"}, ("3m",), ("4m", "25m"), "45m"),
    Case(
        "CommandsForged",
        {'modelwarden_enforcer_commands_refused_total{reason="bad_signature"}': "0x3 0+1x5 5x60"},
        ("3m",),
        ("7m",),
        "40m",
        'reason="bad_signature"',
    ),
    Case("CommandsHidden", {"modelwarden_commands_rewritten_total": "0x3 1x60"}, ("3m",), ("6m",), "40m"),
    Case(
        "AuditUnverified",
        {"modelwarden_audit_verified_timestamp_seconds": "0x200 12000x30"},
        ("60m", "179m"),
        ("190m",),
        "205m",
    ),
    Case(
        "EnforcerCutOff",
        {
            'modelwarden_enforcer_contact_age_seconds{instance="s0"}': "5x3 100+60x8 1x10",
            'modelwarden_enforcer_contact_age_seconds{instance="s1"}': "5x30",
        },
        ("3m", "5m"),
        ("8m",),
        "14m",
        'instance="s0"',
    ),
    Case("AuditChainBroken", {"modelwarden_audit_chain_breaks_total": "0x3 1x100"}, ("3m",), ("5m",), "70m"),
    Case(
        "WorkerDown",
        {'up{job="modelwarden-worker",instance="w0"}': "1x3 0x5 1x5"},
        ("3m", "5m"),
        ("6m30s",),
        "10m",
        'instance="w0"',
    ),
    Case("WorkerDown", {'up{job="modelwarden-worker"}': "_x5 1x5"}, ("1m",), ("3m",), "7m"),
    Case(
        "WorkerStalled",
        {
            "modelwarden_events_total": "0+600x10 6000x15 6000+600x10",
            'modelwarden_consumer_lag_records{topic="events",partition="0"}': "0x10 0+600x15 0x10",
        },
        ("12m",),
        ("20m",),
        "28m",
    ),
    Case(
        "LagHigh",
        {
            "modelwarden_events_total": "0+600x60",
            'modelwarden_consumer_lag_records{topic="events",partition="0"}': "0x5 6000x10 0x10",
        },
        ("5m", "9m"),
        ("12m",),
        "18m",
        'topic="events"',
    ),
    Case(
        "LagGrowing",
        {
            "modelwarden_events_total": "0+600x90",
            'modelwarden_consumer_lag_records{topic="events",partition="0"}': "0x5 0+100x40 0x30",
        },
        ("11m", "18m"),
        ("24m",),
        "48m",
        'topic="events"',
    ),
    Case(
        "DetectionSlow",
        {
            'modelwarden_detection_latency_seconds_bucket{le="1.0"}': "0+50x30 1500+100x60",
            "modelwarden_detection_latency_seconds_count": "0+100x90",
        },
        ("1m",),
        ("10m",),
        "40m",
    ),
    Case(
        "SnapshotsFailing",
        {"modelwarden_snapshot_age_seconds": "10x3 400x10 10x5"},
        ("3m", "7m"),
        ("10m",),
        "16m",
    ),
    Case(
        "StateNearLimit",
        {
            'modelwarden_state_bytes{instance="w0"}': "50x3 90x15 50x5",
            'modelwarden_state_limit_bytes{instance="w0"}': "100x30",
            'modelwarden_state_bytes{instance="w1"}': "90x30",
            'modelwarden_state_limit_bytes{instance="w1"}': "0x30",
        },
        ("3m", "12m"),
        ("15m",),
        "22m",
        'instance="w0"',
    ),
    Case(
        "DeadLetters",
        {'modelwarden_rejections_total{reason="not_json"}': "0x2 0+60x20 1200x40"},
        ("2m", "8m"),
        ("15m",),
        "40m",
        'reason="not_json"',
    ),
    Case(
        "EventsLost",
        {'modelwarden_emit_dropped_events_total{reason="buffer_full"}': "0x2 0+5x20 100x40"},
        ("2m", "8m"),
        ("16m",),
        "40m",
        'reason="buffer_full"',
    ),
    Case(
        "SketchesShed",
        {'modelwarden_emit_shed_sketches_total{sketch="input_sketch"}': "0x2 0+5x20 100x40"},
        ("2m", "8m"),
        ("16m",),
        "40m",
        'sketch="input_sketch"',
    ),
    Case(
        "TooManySeries",
        {f'modelwarden_x{{n="{n}",job="j",instance="i"}}': "1x12 stale" for n in range(3_001)},
        ("5m",),
        ("11m",),
        "14m",
        labels='job="j",instance="i"',
        evaluation="1m",
    ),
    Case(
        "AnnotationsBehind",
        {"modelwarden_annotations_oldest_seconds": "0x2 1000x8 0x5"},
        ("2m", "6m"),
        ("9m",),
        "13m",
    ),
    Case(
        "AnnotationsDropped",
        {'modelwarden_annotations_dropped_total{reason="spool_full"}': "0x3 5x60"},
        ("3m",),
        ("4m",),
        "25m",
        'reason="spool_full"',
    ),
    Case("GrafanaDown", {"modelwarden_grafana_up": "1x2 0x8 1x5"}, ("2m", "6m"), ("9m",), "13m"),
    Case(
        "CompanionDown",
        {'up{job="modelwarden-canary",instance="c"}': "1x2 0x8 1x5"},
        ("2m", "6m"),
        ("9m",),
        "13m",
        'job="modelwarden-canary",instance="c"',
    ),
)
