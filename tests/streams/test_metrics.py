"""The metrics: a closed catalogue, served on loopback, told apart from a port that is taken."""

from __future__ import annotations

from http.client import HTTPConnection
from typing import get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from detectors.alert import LEVELS
from sinks.metrics.catalogue import CATALOGUE
from sinks.records import Action, Reason
from streams.bus.base import Message
from streams.codec import Rejection
from streams.errors import SettingsError
from streams.localkafka import free_port
from streams.metrics import Lag, Metrics
from streams.pipeline import Outputs
from streams.settings import MetricsSettings

SHOWN = {name: metric for name, metric in CATALOGUE.items() if "worker" in metric.components}


def read(settings: MetricsSettings) -> dict[tuple[str, ...], float]:
    connection = HTTPConnection(settings.host, settings.port)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert set(families) == {name.removesuffix("_total") for name in SHOWN}
    samples = [sample for family in families.values() for sample in family.samples]
    return {(s.name, *(s.labels[n] for n in sorted(s.labels))): s.value for s in samples}


def test_a_scrape_shows_what_was_counted_and_measured() -> None:
    metrics, settings = Metrics(), MetricsSettings(enabled=True, port=free_port())
    message = Message(topic="t", partition=0, offset=0, value=b"sk-live-secret")
    refused = Rejection(reason="not_json", detail="$", message=message)
    metrics.count(Outputs(rejections=[refused, refused], events=5))
    metrics.measure(keys=3, state_bytes=4096, lags=[Lag("events", 7, 11)])
    metrics.measure(keys=2, state_bytes=2048, lags=[Lag("events", 1, 9)])
    stop = metrics.serve(settings)
    try:
        found = read(settings)
    finally:
        stop()
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
    settings = MetricsSettings(enabled=True, port=free_port())
    stop = Metrics().serve(settings)
    try:
        with pytest.raises(
            SettingsError, match=rf"metrics\.port {settings.port} .*[Aa]ddress already in use"
        ):
            Metrics().serve(settings)
    finally:
        stop()
