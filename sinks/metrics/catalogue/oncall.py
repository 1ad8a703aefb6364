"""What the writer of annotations and the canary tell."""

from __future__ import annotations

from sinks.metrics.definition import Component, Counter, Gauge, Histogram, Label

ANNOTATE: tuple[Component, ...] = ("annotate",)
CANARY: tuple[Component, ...] = ("canary",)

MAX_CANARY_MODELS = 64

_CANARY_MODEL = Label(name="model", at_most=MAX_CANARY_MODELS)
_CAUGHT = Label(name="outcome", values=("caught", "missed"))
_KIND = Label(name="kind", values=("alert", "command", "policy", "summary", "window"))
_DROP = Label(name="reason", values=("spool_full", "too_old", "refused"))
_CATCH_S = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)

# --- Grafana ----------------------------------------------------------------------------------------------

ANNOTATIONS_OFFERED = Counter(
    name="modelwarden_annotations_offered_total",
    help="Alerts, commands and policy changes read that deserve an annotation",
    tells="All of them are written, coalesced, dropped or spooled.",
    components=ANNOTATE,
    labels=(_KIND,),
)
ANNOTATIONS_WRITTEN = Counter(
    name="modelwarden_annotations_written_total",
    help="Annotations that Grafana holds",
    tells="Standing still while some are spooled: Grafana does not take them.",
    components=ANNOTATE,
    labels=(_KIND,),
)
ANNOTATIONS_COALESCED = Counter(
    name="modelwarden_annotations_coalesced_total",
    help="Annotations told by another one: of the same key, or a summary",
    tells="High in an attack on many keys; the alerts topic holds each.",
    components=ANNOTATE,
    labels=(_KIND,),
)
ANNOTATIONS_DROPPED = Counter(
    name="modelwarden_annotations_dropped_total",
    help="Annotations given up",
    tells="The spool is full or too old, or Grafana refuses one; the dashboards miss some marks.",
    components=ANNOTATE,
    labels=(_DROP,),
)
ANNOTATIONS_SPOOLED = Gauge(
    name="modelwarden_annotations_spooled",
    help="Annotations on disk that wait for Grafana",
    tells="Growing: Grafana is away or slow.",
    components=ANNOTATE,
)
ANNOTATIONS_OLDEST = Gauge(
    name="modelwarden_annotations_oldest_seconds",
    help="Age of the oldest annotation that waits; 0 if none does",
    tells="How far the marks on the dashboards are behind.",
    components=ANNOTATE,
    unit="seconds",
)
GRAFANA_FAILURES = Counter(
    name="modelwarden_grafana_failures_total",
    help="Calls to Grafana that failed, by what to do about it",
    tells="auth: renew the token. unavailable: Grafana or the way to it. refused: a defect of ours.",
    components=ANNOTATE,
    labels=(Label(name="cause", values=("auth", "unavailable", "throttled", "refused")),),
)
GRAFANA_UP = Gauge(
    name="modelwarden_grafana_up",
    help="1 if Grafana answered the last call, else 0",
    tells="At 0 nobody sees dashboards, and Grafana's own alerts do not fire.",
    components=ANNOTATE,
)

# --- the canary -------------------------------------------------------------------------------------------

CANARY_LAST_CAUGHT = Gauge(
    name="modelwarden_canary_last_caught_timestamp_seconds",
    help="When the synthetic attack on a model was last caught; the canary's start before that",
    tells="Older than some minutes: thieves may go unseen, whatever else looks well.",
    components=CANARY,
    unit="timestamp_seconds",
    labels=(_CANARY_MODEL,),
)
CANARY_ROUNDS = Counter(
    name="modelwarden_canary_rounds_total",
    help="Synthetic attacks made",
    tells="The share that was missed.",
    components=CANARY,
    labels=(_CAUGHT,),
)
CANARY_CATCH = Histogram(
    name="modelwarden_canary_catch_seconds",
    help="From the last event of a synthetic attack until its alert was read",
    tells="End-to-end latency, measured from outside.",
    components=CANARY,
    unit="seconds",
    buckets=_CATCH_S,
)
