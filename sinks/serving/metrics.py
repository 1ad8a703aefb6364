"""What a serving process tells Prometheus, from the counts that its parts keep anyway.

Who calls it: a scrape, in the process that has the warden. A provider with metrics of its own calls `export`
in its own endpoint.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, get_args

from prometheus_client import generate_latest

from sinks.metrics import catalogue
from sinks.records import Action
from sinks.serving.commands import Refusal
from sinks.serving.formats import SKETCHES

if TYPE_CHECKING:
    from sinks.metrics.definition import Counter as CounterMetric
    from sinks.metrics.instruments import Instruments
    from sinks.serving.warden import Warden

_ACTION_OF = {
    "key_revoked": "revoke",
    "key_suspended": "suspend",
    "verification_required": "challenge",
    "rate_limited": "throttle",
    "coarsened": "coarsen",
    "watermarked": "watermark",
}


def export(warden: Warden, instruments: Instruments) -> bytes:
    """Bring the metrics up to date and write them in Prometheus' text format."""
    refused = {reason: warden.enforcer.counts[reason] for reason in get_args(Refusal)}
    for reason, count in refused.items():
        _raise_to(instruments, catalogue.COMMANDS_REFUSED, count, reason=reason)
    for kind, action in _ACTION_OF.items():
        _raise_to(instruments, catalogue.CALLS_ENFORCED, warden.counts[kind], action=action)
    _raise_to(instruments, catalogue.EMITTED, warden.events.emitted)
    for reason, count in list(warden.events.dropped.items()):
        _raise_to(instruments, catalogue.EMIT_DROPPED, count, reason=reason)
    for sketch in SKETCHES:
        _raise_to(instruments, catalogue.EMIT_SHED, warden.events.backlog.shed[sketch], sketch=sketch)
    instruments.set(catalogue.EMIT_QUEUE_FILL, warden.events.backlog.fill)
    held = Counter(command.action for command in warden.enforcer.table.standing())
    for one in get_args(Action):
        instruments.set(catalogue.COMMANDS_HELD, held[one], action=one)
    instruments.set(catalogue.ENFORCER_CONTACT_AGE, min(warden.enforcer.follower.contact_age_s, 1e9))
    return generate_latest(instruments.registry)


def _raise_to(instruments: Instruments, metric: CounterMetric, count: int, /, **labels: str) -> None:
    """Let a counter rise to what was counted; it never falls, for the counts do not."""
    behind = count - instruments.value(metric, **labels)
    if behind > 0:
        instruments.add(metric, behind, **labels)
