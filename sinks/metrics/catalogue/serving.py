"""What a serving process, or the sidecar beside it, tells."""

from __future__ import annotations

from typing import get_args

from sinks.metrics.definition import Component, Counter, Gauge, Label
from sinks.records import Action
from sinks.serving.commands import Refusal
from sinks.serving.formats import SKETCHES

SERVING: tuple[Component, ...] = ("serving",)

_ACTION = Label(name="action", values=get_args(Action))

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
EMIT_SHED = Counter(
    name="modelwarden_emit_shed_sketches_total",
    help="Sketches left out of events, because the emitter's or the observer's queue was filling",
    tells="Evidence is thinner by these, rates and counts are whole; next, events are dropped.",
    components=SERVING,
    labels=(Label(name="sketch", values=SKETCHES),),
)
EMIT_QUEUE_FILL = Gauge(
    name="modelwarden_emit_queue_ratio",
    help="How full the emitter's buffer is, of the bytes it may take",
    tells="From 0.5 on embedding sketches are left out, from 0.75 on input sketches too, at 1 events.",
    components=SERVING,
    unit="ratio",
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
