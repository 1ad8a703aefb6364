"""What the revoker and the reconcile loop tell: whether commands are carried out."""

from __future__ import annotations

from typing import get_args

from sinks.metrics.definition import Component, Counter, Gauge, Histogram, Label
from sinks.records import Action

RECONCILE: tuple[Component, ...] = ("reconcile",)
REVOKER: tuple[Component, ...] = ("revoker",)

_ACTION = Label(name="action", values=get_args(Action))
_OUTCOME = Label(name="outcome", values=("enforced", "refused", "expired", "lifted"))
_ENFORCE_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

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
    components=RECONCILE,
)
AUDIT_VERIFIED = Gauge(
    name="modelwarden_audit_verified_timestamp_seconds",
    help="When the audit chain was last read and checked whole; the start of the process before that",
    tells="Old: nobody checks the chain.",
    components=RECONCILE,
    unit="timestamp_seconds",
)
