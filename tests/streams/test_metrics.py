"""The worker's metrics and health, served on loopback; a port that is taken is named."""

from __future__ import annotations

from contextlib import contextmanager
from http.client import HTTPConnection
from typing import TYPE_CHECKING, get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from detectors.alert import LEVELS
from sinks.metrics.catalogue import CATALOGUE
from sinks.metrics.server import ServeError, serve
from sinks.records import Action, Reason
from streams.bus.base import Message
from streams.clock import ManualClock
from streams.codec import Rejection
from streams.health import Health
from streams.localkafka import free_port
from streams.metrics import Lag, Metrics
from streams.pipeline import Outputs
from streams.settings import HealthSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import CollectorRegistry

SHOWN = {name: metric for name, metric in CATALOGUE.items() if "worker" in metric.components}


@contextmanager
def serving(registry: CollectorRegistry, health: Health) -> Iterator[int]:
    port = free_port()
    probes = {"/livez": health.live, "/readyz": health.ready, "/startupz": health.started}
    stop = serve(registry, "127.0.0.1", port, probes)
    yield port
    stop()


def get(port: int, path: str) -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", port)
    connection.request("GET", path)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def read(port: int) -> dict[tuple[str, ...], float]:
    families = {family.name: family for family in text_string_to_metric_families(get(port, "/metrics")[1])}
    assert set(families) == {name.removesuffix("_total") for name in SHOWN}
    samples = [sample for family in families.values() for sample in family.samples]
    return {(s.name, *(s.labels[n] for n in sorted(s.labels))): s.value for s in samples}


def test_a_scrape_shows_what_was_counted_and_measured() -> None:
    metrics = Metrics()
    message = Message(topic="t", partition=0, offset=0, value=b"sk-live-secret")
    refused = Rejection(reason="not_json", detail="$", message=message)
    metrics.count(Outputs(rejections=[refused, refused], events=5))
    metrics.measure(
        keys=3, state_bytes=4096, state_limit_bytes=9000, snapshot_age_s=1.5, lags=[Lag("events", 7, 11)]
    )
    metrics.measure(
        keys=2, state_bytes=2048, state_limit_bytes=9000, snapshot_age_s=0.0, lags=[Lag("events", 1, 9)]
    )
    with serving(metrics.instruments.registry, Health(HealthSettings(), ManualClock())) as port:
        found = read(port)
    assert found["modelwarden_events_total",] == 5
    assert found["modelwarden_rejections_total", "not_json"] == 2
    assert found["modelwarden_keys_tracked",] == 2
    assert found["modelwarden_state_bytes",] == 2048
    lags = {place: value for place, value in found.items() if "consumer_lag" in place[0]}
    assert lags == {("modelwarden_consumer_lag_records", "1", "events"): 9}, "only what is this worker's now"
    for name, values in (
        ("rejections", get_args(Reason)),
        ("alerts", LEVELS),
        ("commands", get_args(Action)),
    ):
        assert all((f"modelwarden_{name}_total", value) in found for value in values), "begins at 0"


def test_a_port_that_is_taken_is_named() -> None:
    registry, health = Metrics().instruments.registry, Health(HealthSettings(), ManualClock())
    with (
        serving(registry, health) as port,
        pytest.raises(ServeError, match=rf"metrics\.port {port} .*[Aa]ddress already in use"),
    ):
        serve(registry, "127.0.0.1", port, {})


def test_the_health_endpoints_say_no_with_reasons_and_then_yes() -> None:
    clock = ManualClock()
    health = Health(HealthSettings(stuck_s=30, lag_records=100), clock)
    with serving(Metrics().instruments.registry, health) as port:
        assert get(port, "/startupz") == (503, "checking topics and compiling kernels\n")
        assert get(port, "/livez") == (200, "ok\n"), "starting is no reason to be killed"
        assert get(port, "/nothing")[0] == 404
        health.is_warm = True
        assert get(port, "/startupz") == (200, "ok\n")
        assert get(port, "/readyz") == (503, "no partitions assigned yet\n")
        health.is_assigned, health.replaying, health.lag_records = True, 2, 101
        said = "2 partitions are being recovered\n101 records behind, limit 100\n"
        assert get(port, "/readyz") == (503, said)
        health.replaying, health.lag_records = 0, 100
        assert get(port, "/readyz") == (200, "ok\n")
        clock.advance(31_000)
        assert get(port, "/livez") == (503, "the event loop has stood still for 31 s\n")
        assert get(port, "/readyz")[0] == 503
        health.beat()
        assert get(port, "/livez") == get(port, "/readyz") == (200, "ok\n")
