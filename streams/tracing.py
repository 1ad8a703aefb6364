"""OpenTelemetry traces: chunk of events -> alert -> command. Optional, and never in the way.

A stand-in of a tracer once made every rebalance of a Faust worker fail. So nothing here wraps the stream:
spans are made afterwards, from times that were taken anyway, in one call that cannot raise. Sending is the
exporter's own thread's business.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import structlog

from streams.errors import SettingsError

if TYPE_CHECKING:
    from streams.pipeline import Outputs
    from streams.settings import TracingSettings

MOST_CHILDREN = 100
"""Alerts of one chunk that get a span of their own."""

_log = structlog.get_logger(__name__)


class Tracer:
    """Tells what became of a chunk.

    Parameters
    ----------
    tracer : opentelemetry.trace.Tracer, optional
        None: nothing is told.
    every_chunk : bool
        Also of chunks in which nothing was found.
    """

    def __init__(self, tracer: Any = None, *, every_chunk: bool = False) -> None:
        self._tracer = tracer
        self._every_chunk = every_chunk
        self._failures = 0

    def start(self) -> int:
        """Return the time, for `tell`."""
        return time.time_ns() if self._tracer is not None else 0

    def tell(self, outputs: Outputs, place: str, started_ns: int) -> None:
        """Tell what came of the chunk at `place` (topic/partition/offset) that began then. Never raises."""
        if self._tracer is None or not (self._every_chunk or outputs.alerts or outputs.commands):
            return
        try:
            self._tell(outputs, place, started_ns)
        except Exception as error:  # noqa: BLE001 - whatever a tracer does, detection goes on
            self._failures += 1
            if self._failures == 1:
                _log.warning("tracing_failed", error=str(error), kind=type(error).__name__)

    def _tell(self, outputs: Outputs, place: str, started_ns: int) -> None:
        from opentelemetry.trace import set_span_in_context  # noqa: PLC0415 - an extra

        ended_ns = time.time_ns()
        attributes = {
            "messaging.system": "kafka",
            "modelwarden.place": place,
            "modelwarden.events": outputs.events,
            "modelwarden.rejections": len(outputs.rejections),
        }
        chunk = self._tracer.start_span("chunk", start_time=started_ns, attributes=attributes)
        above = set_span_in_context(chunk)
        parents = {}
        for alert in outputs.alerts[:MOST_CHILDREN]:
            told = {
                "modelwarden.alert_id": alert.alert_id,
                "modelwarden.key_ref": alert.key,
                "modelwarden.level": alert.level,
                "gen_ai.request.model": alert.model,
            }
            span = self._tracer.start_span("alert", above, start_time=started_ns, attributes=told)
            parents[alert.alert_id] = set_span_in_context(span)
            span.end(ended_ns)
        for command in outputs.commands[:MOST_CHILDREN]:
            told = {"modelwarden.command_id": command.command_id, "modelwarden.action": command.action}
            parent = parents.get(command.alert_id, above)
            self._tracer.start_span("command", parent, start_time=started_ns, attributes=told).end(ended_ns)
        chunk.end(ended_ns)


def make_tracer(settings: TracingSettings) -> Tracer:
    """Return a tracer that sends to the endpoint of the settings, or one that tells nothing without.

    Raises
    ------
    SettingsError
        If there is an endpoint, and the extra `otel` is not installed.
    """
    if settings.endpoint is None:
        return Tracer()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - an extra, like the others
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        do = "Install it: pip install 'modelwarden[otel]', or leave tracing.endpoint out"
        raise SettingsError("tracing.endpoint", "OpenTelemetry is not installed", do) from error
    provider = TracerProvider(resource=Resource.create({"service.name": "modelwarden-worker"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=settings.endpoint)))
    return Tracer(provider.get_tracer("modelwarden"), every_chunk=settings.every_chunk)
