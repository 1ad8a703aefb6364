"""What a worker tells: of the stream, its state, what it finds and what the policy makes of that."""

from __future__ import annotations

from typing import get_args

from detectors.alert import LEVELS, Family
from sinks.metrics.definition import Component, Counter, Gauge, Histogram, Label
from sinks.records import Action, Mode, Reason

WORKER: tuple[Component, ...] = ("worker",)

MAX_PARTITIONS = 1024
MAX_FLAGGED_KEYS = 400
"""Flagged keys that one worker shows. Each costs two series."""

_LEVEL = Label(name="level", values=LEVELS)
_FAMILY = Label(name="family", values=get_args(Family))
_ACTION = Label(name="action", values=get_args(Action))
_MODE = Label(name="mode", values=get_args(Mode))
_REASON = Label(name="reason", values=get_args(Reason))
_VERDICT = Label(name="verdict", values=("honest", "guilty"))
_TOPIC = Label(name="topic", values=("events", "feedback", "acks"))
_PARTITION = Label(name="partition", at_most=MAX_PARTITIONS)
_KEY_REF = Label(name="key_ref", at_most=MAX_FLAGGED_KEYS)
_MODEL_OF_KEY = Label(name="model", at_most=MAX_FLAGGED_KEYS)
_BREAKER = Label(name="cause", values=("keys", "tenants", "traffic_share", "person"))
_LATENCY_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
_SNAPSHOT_S = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)

# --- the stream -------------------------------------------------------------------------------------------

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

# --- state ------------------------------------------------------------------------------------------------

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

# --- what is found ----------------------------------------------------------------------------------------

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

# --- what the policy does about it ------------------------------------------------------------------------

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
