"""Traces: chunk, alert, command; and a tracer that raises changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from alerts import make_alert
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from sinks.records import Command
from streams.pipeline import Outputs
from streams.settings import TracingSettings
from streams.tracing import Tracer, make_tracer

if TYPE_CHECKING:
    import pytest


class Raises:
    """A tracer that breaks at every touch."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"broken at {name}")


def found() -> Outputs:
    alert = make_alert()
    command = Command(
        command_id="c" * 32, action="suspend", key=alert.key, issued_ms=1, expires_ms=2, rule="r",
        policy_version="1", alert_id=alert.alert_id, reason="r",
    )  # fmt: skip
    return Outputs(alerts=[alert], commands=[command], events=7)


def test_a_command_hangs_below_its_alert_below_its_chunk() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = Tracer(provider.get_tracer("t"))
    tracer.tell(found(), "events/0/5", tracer.start())
    tracer.tell(Outputs(events=3), "events/0/8", tracer.start())
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert set(spans) == {"chunk", "alert", "command"}, "a chunk without a finding is not traced"
    ids = {name: span.context.span_id for name, span in spans.items() if span.context}
    parents = {name: span.parent.span_id for name, span in spans.items() if span.parent}
    assert parents == {"alert": ids["chunk"], "command": ids["alert"]}
    assert (spans["chunk"].attributes or {})["modelwarden.events"] == 7
    assert all((span.end_time or 0) >= (span.start_time or 0) > 0 for span in spans.values())
    provider.shutdown()


def test_a_tracer_that_raises_is_logged_once_and_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    tracer = Tracer(Raises(), every_chunk=True)
    before = msgspec.json.encode([msgspec.structs.asdict(alert) for alert in found().alerts])
    for _ in range(3):
        outputs = found()
        tracer.tell(outputs, "events/0/5", tracer.start())
        assert msgspec.json.encode([msgspec.structs.asdict(a) for a in outputs.alerts]) == before
    assert capsys.readouterr().out.count("tracing_failed") <= 1


def test_without_an_endpoint_nothing_is_made() -> None:
    tracer = make_tracer(TracingSettings())
    assert tracer.start() == 0
    tracer.tell(found(), "events/0/5", 0)
