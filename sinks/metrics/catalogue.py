"""Every metric there is, by who tells it. No label holds a key, but for references of flagged keys.

To add one: write it below in its section (name, help, what it tells the operator, components, unit, labels),
count it with `Instruments`, run `python -m sinks.metrics`. A label has listed values, or a bound on their
number; what traffic can invent (keys, models, tenants, texts) is no label, except in series with a budget.
"""

from __future__ import annotations

from typing import get_args

from detectors.alert import LEVELS, Family
from sinks.metrics.definition import Component, Counter, Gauge, Histogram, Label, Metric
from sinks.records import Action, Mode, Reason
from sinks.serving.commands import Refusal

WORKER: tuple[Component, ...] = ("worker",)
SERVING: tuple[Component, ...] = ("serving",)
RECONCILE: tuple[Component, ...] = ("reconcile",)
REVOKER: tuple[Component, ...] = ("revoker",)
ANNOTATE: tuple[Component, ...] = ("annotate",)
CANARY: tuple[Component, ...] = ("canary",)

MAX_PARTITIONS = 1024
MAX_FLAGGED_KEYS = 400
"""Flagged keys that one worker shows. Each costs two series."""
MAX_CANARY_MODELS = 64

_LEVEL = Label(name="level", values=LEVELS)
_FAMILY = Label(name="family", values=get_args(Family))
_ACTION = Label(name="action", values=get_args(Action))
_MODE = Label(name="mode", values=get_args(Mode))
_REASON = Label(name="reason", values=get_args(Reason))
_VERDICT = Label(name="verdict", values=("honest", "guilty"))
_OUTCOME = Label(name="outcome", values=("enforced", "refused", "expired", "lifted"))
_TOPIC = Label(name="topic", values=("events", "feedback", "acks"))
_PARTITION = Label(name="partition", at_most=MAX_PARTITIONS)
_KEY_REF = Label(name="key_ref", at_most=MAX_FLAGGED_KEYS)
_MODEL_OF_KEY = Label(name="model", at_most=MAX_FLAGGED_KEYS)
_CANARY_MODEL = Label(name="model", at_most=MAX_CANARY_MODELS)
_CAUGHT = Label(name="outcome", values=("caught", "missed"))
_KIND = Label(name="kind", values=("alert", "command", "policy", "summary", "window"))
_DROP = Label(name="reason", values=("spool_full", "too_old", "refused"))
_SHED = Label(name="step", values=("exemplars", "coverage", "sketches"))
_BREAKER = Label(name="cause", values=("keys", "tenants", "traffic_share", "person"))

_LATENCY_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
_SNAPSHOT_S = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
_ENFORCE_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_CATCH_S = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)

# --- the stream ---------------------------------------------------------------------------------------------

EVENTS = Counter(
    name="modelwarden_events_total",
    help="Events processed",
    tells="Throughput. Zero while lag is above zero: the worker stands still.",
    components=WORKER,
)
REJECTIONS = Counter(
    name="modelwarden_rejections_total",
    help="Messages refused and dead-lettered",
    tells="A producer writes what cannot be read; the dead-letter topic says where.",
    components=WORKER,
    labels=(_REASON,),
)
CONSUMER_LAG = Gauge(
    name="modelwarden_consumer_lag_records",
    help="Records not yet in the state",
    tells="How far detection is behind. Growing for minutes: add workers, or find out what is slow.",
    components=WORKER,
    unit="records",
    labels=(_TOPIC, _PARTITION),
)
DETECTION_LATENCY = Histogram(
    name="modelwarden_detection_latency_seconds",
    help="From an event's arrival on its topic until its verdict, for the oldest event of a chunk",
    tells="How late a theft is seen. The objective: 99 % within 1 s.",
    components=WORKER,
    unit="seconds",
    buckets=_LATENCY_S,
)
SHED_LEVEL = Gauge(
    name="modelwarden_shed_level",
    help="Steps of work left out to keep up with the traffic; 0 when nothing is",
    tells="Above 0, detection is coarser than usual: add workers.",
    components=WORKER,
)
SHED = Counter(
    name="modelwarden_shed_events_total",
    help="Events for which a step was left out",
    tells="What was given up under overload, by step.",
    components=WORKER,
    labels=(_SHED,),
)

# --- state --------------------------------------------------------------------------------------------------

KEYS_TRACKED = Gauge(
    name="modelwarden_keys_tracked",
    help="Keys kept in full, each model's counted",
    tells="Against engine.hot_keys: at the limit, the least recently seen keys are kept as summaries only.",
    components=WORKER,
)
STATE_BYTES = Gauge(
    name="modelwarden_state_bytes",
    help="Bytes of the keys' state in memory",
    tells="Against the limit: how much memory keys take, and may come to take.",
    components=WORKER,
    unit="bytes",
)
STATE_LIMIT_BYTES = Gauge(
    name="modelwarden_state_limit_bytes",
    help="Bytes that the keys' state may grow to with the partitions that are here",
    tells="What the machine must have; follows from engine.hot_keys and the number of partitions.",
    components=WORKER,
    unit="bytes",
)
SNAPSHOT_SECONDS = Histogram(
    name="modelwarden_snapshot_seconds",
    help="From the capture of a partition's state until it is stored",
    tells="Slow snapshots lengthen every restart and rebalance: look at the brokers.",
    components=WORKER,
    unit="seconds",
    buckets=_SNAPSHOT_S,
)
SNAPSHOT_AGE = Gauge(
    name="modelwarden_snapshot_age_seconds",
    help="Age of the oldest change that no durable snapshot holds, over the partitions here",
    tells="What a crash would make the next worker replay. Above some intervals: snapshots fail.",
    components=WORKER,
    unit="seconds",
)

# --- what is found ------------------------------------------------------------------------------------------

ALERTS = Counter(
    name="modelwarden_alerts_total",
    help="Alerts made, those of canaries not counted",
    tells="A surge is a campaign, or a reference that no longer fits the traffic.",
    components=WORKER,
    labels=(_LEVEL,),
)
FINDINGS = Counter(
    name="modelwarden_findings_total",
    help="Families of signals that agreed on an alert, those of canaries not counted",
    tells="Which way of stealing is seen; one family alone over many keys may be drift.",
    components=WORKER,
    labels=(_FAMILY,),
)
FLAGGED_KEY_LEVEL = Gauge(
    name="modelwarden_flagged_key_level",
    help="Level of a flagged key: 1 notice, 2 warning, 3 critical",
    tells="Who is suspected, of what. Only flagged keys, at most 400 a worker; never the key itself.",
    components=WORKER,
    labels=(_KEY_REF, _MODEL_OF_KEY, _FAMILY),
    budget=MAX_FLAGGED_KEYS,
)
FLAGGED_KEY_EVIDENCE = Gauge(
    name="modelwarden_flagged_key_evidence_log10",
    help="Base-10 logarithm of the e-value of the alert that raised a flagged key to its level",
    tells="How sure: 2 means that an honest key shows this once in a hundred lifetimes or less.",
    components=WORKER,
    unit="log10",
    labels=(_KEY_REF, _MODEL_OF_KEY),
    budget=MAX_FLAGGED_KEYS,
)
FLAGGED_KEYS_LEFT_OUT = Counter(
    name="modelwarden_flagged_keys_left_out_total",
    help="Flagged keys that found no place among the series",
    tells="The dashboards do not show every flagged key; the alerts topic does.",
    components=WORKER,
)

# --- what is done about it ----------------------------------------------------------------------------------

COMMANDS = Counter(
    name="modelwarden_commands_total",
    help="Commands made",
    tells="What was done to keys. None while alerts come: the policy observes only.",
    components=WORKER,
    labels=(_ACTION,),
)
POLICY_MODE = Gauge(
    name="modelwarden_policy_mode",
    help="1 for the mode of the policy in force, 0 for the others",
    tells="Whether commands leave at all.",
    components=WORKER,
    labels=(_MODE,),
)
POLICY_REFUSED = Counter(
    name="modelwarden_policy_refused_total",
    help="Policies on the policy topic that were not put in force",
    tells="Somebody published a policy that is not valid or not signed; the one before stays in force.",
    components=WORKER,
)
BREAKER_OPEN = Gauge(
    name="modelwarden_breaker_open",
    help="1 while the breaker holds revocations back, else 0",
    tells="So many keys were to be revoked that a person must look before more are.",
    components=WORKER,
)
BREAKER_TRIPS = Counter(
    name="modelwarden_breaker_trips_total",
    help="Times the breaker tripped",
    tells="What tripped it: too many keys, tenants, share of traffic, or a person.",
    components=WORKER,
    labels=(_BREAKER,),
)
FEEDBACK = Counter(
    name="modelwarden_feedback_total",
    help="People's verdicts on keys",
    tells="Honest verdicts among all are the false alarms that people found.",
    components=WORKER,
    labels=(_VERDICT,),
)
REVOCATIONS = Counter(
    name="modelwarden_revocations_total",
    help="Keys revoked at the provider's key store, by outcome",
    tells="A revocation that failed leaves a thief at work.",
    components=REVOKER,
    labels=(Label(name="outcome", values=("done", "failed")),),
)
REVOCATION_ATTEMPTS_FAILED = Counter(
    name="modelwarden_revocation_attempts_failed_total",
    help="Calls to the provider's key store that did not succeed",
    tells="Rising: the key store is away or refuses; orders wait and are tried again.",
    components=REVOKER,
)
REVOCATION_ORDERS = Gauge(
    name="modelwarden_revocation_orders",
    help="Orders in the revoker's outbox that are not done, by state",
    tells="Dead above 0: a person must look, `modelwarden revoker list`. Pending for long: a thief goes on.",
    components=REVOKER,
    labels=(Label(name="state", values=("pending", "dead")),),
)
UNACKNOWLEDGED = Gauge(
    name="modelwarden_commands_unacknowledged",
    help="Commands in force that no serving layer has said it enforces",
    tells="Above 0 for a minute: enforcement does not happen.",
    components=RECONCILE,
    labels=(_ACTION,),
)
OLDEST_UNACKNOWLEDGED = Gauge(
    name="modelwarden_command_oldest_unacknowledged_seconds",
    help="Age of the oldest command in force that nobody has acknowledged; 0 if there is none",
    tells="How long a thief has gone on after the command.",
    components=RECONCILE,
    unit="seconds",
    labels=(_ACTION,),
)
ISSUED_TO_ENFORCED = Histogram(
    name="modelwarden_command_issued_to_enforced_seconds",
    help="From a command's issue until the first serving layer enforces it",
    tells="How fast mitigation takes hold.",
    components=RECONCILE,
    unit="seconds",
    buckets=_ENFORCE_S,
)
ACKNOWLEDGEMENTS = Counter(
    name="modelwarden_acknowledgements_total",
    help="What serving layers said of commands",
    tells="Refused: a wrong key, a replay or a clock; the enforcer's log says which.",
    components=RECONCILE,
    labels=(_OUTCOME,),
)
COMMANDS_RESENT = Counter(
    name="modelwarden_commands_resent_total",
    help="Commands sent again because nobody acknowledged them",
    tells="Rising: serving layers miss commands.",
    components=RECONCILE,
)
COMMANDS_REWRITTEN = Counter(
    name="modelwarden_commands_rewritten_total",
    help="Commands written again because an older or a false record hid them on their topic",
    tells="Above 0: somebody who should not writes to the commands topic.",
    components=RECONCILE,
)
AUDIT_BREAKS = Counter(
    name="modelwarden_audit_chain_breaks_total",
    help="Places at which the audit chain did not hold",
    tells="Somebody changed or removed audit records, or two writers wrote one chain.",
    components=("worker", "reconcile"),
)
AUDIT_VERIFIED = Gauge(
    name="modelwarden_audit_verified_timestamp_seconds",
    help="When the audit chain was last verified whole",
    tells="Old: nobody checks the chain.",
    components=("worker", "reconcile"),
    unit="timestamp_seconds",
)

# --- the serving side ---------------------------------------------------------------------------------------

EMITTED = Counter(
    name="modelwarden_emitted_events_total",
    help="Events that this process handed to Kafka",
    tells="Against the calls served: what detection gets to see.",
    components=SERVING,
)
EMIT_DROPPED = Counter(
    name="modelwarden_emit_dropped_events_total",
    help="Events dropped because the emitter's buffer was full or Kafka refused them",
    tells="Detection is blind to these; serving was never slowed for them.",
    components=SERVING,
    labels=(Label(name="reason", values=("buffer_full", "refused", "closed")),),
)
COMMANDS_HELD = Gauge(
    name="modelwarden_enforcer_commands_held",
    help="Commands that this process enforces now",
    tells="The same in every serving process of a fleet, or one of them lags.",
    components=SERVING,
    labels=(_ACTION,),
)
COMMANDS_REFUSED = Counter(
    name="modelwarden_enforcer_commands_refused_total",
    help="Commands that this process did not accept",
    tells="A signature, a replay or an expiry: somebody forges, or a clock is wrong.",
    components=SERVING,
    labels=(Label(name="reason", values=get_args(Refusal)),),
)
CALLS_ENFORCED = Counter(
    name="modelwarden_enforcer_calls_total",
    help="Calls that a command changed or refused",
    tells="What mitigation costs the keys it is for.",
    components=SERVING,
    labels=(_ACTION,),
)
ENFORCER_CONTACT_AGE = Gauge(
    name="modelwarden_enforcer_contact_age_seconds",
    help="Since Kafka last answered this process's enforcer",
    tells="High: commands and undos do not arrive; what fails open has lapsed.",
    components=SERVING,
    unit="seconds",
)

# --- Grafana ------------------------------------------------------------------------------------------------

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

# --- the canary ---------------------------------------------------------------------------------------------

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

CATALOGUE: dict[str, Metric] = {
    metric.name: metric for metric in list(globals().values()) if isinstance(metric, Metric)
}
"""Every metric by its name, in the order above."""
