"""The catalogue: well formed, closed, documented; and what is not in it is refused."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import prometheus_client
import pytest

from sinks.metrics import catalogue
from sinks.metrics.__main__ import main
from sinks.metrics.catalogue import CATALOGUE
from sinks.metrics.definition import COMPONENTS, Component, Counter, Gauge, Label
from sinks.metrics.documents import documents, entries
from sinks.metrics.instruments import Instruments, MetricsError

if TYPE_CHECKING:
    from collections.abc import Callable

UNIT_LESS_TRAFFIC = {"key", "api_key", "tenant", "plan", "user", "text"}


def test_no_label_holds_what_traffic_invents_outside_a_budget() -> None:
    for metric in CATALOGUE.values():
        assert not UNIT_LESS_TRAFFIC & set(metric.label_names), metric.name
        if "key_ref" in metric.label_names:
            assert metric.budget, metric.name


def test_every_entry_says_something_and_belongs_to_a_process() -> None:
    constants = [value for value in vars(catalogue).values() if isinstance(value, Counter | Gauge)]
    assert len({metric.name for metric in constants}) == len(constants), "two entries share a name"
    for metric in CATALOGUE.values():
        assert metric.components, metric.name
        assert len(metric.tells) > 20, metric.name
        assert not metric.help.endswith("."), metric.name


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("modelwarden_things", ""),
        ("modelwarden_Things_total", ""),
        ("things_total", ""),
        ("modelwarden_wait_total", "seconds"),
    ],
)
def test_a_badly_named_metric_is_refused(name: str, unit: str) -> None:
    with pytest.raises(ValueError, match="must be named"):
        Counter(name=name, help="h", tells="t", components=("worker",), unit=unit)  # type: ignore[arg-type]


def test_what_is_not_in_the_catalogue_is_refused() -> None:
    worker = Instruments("worker")
    stranger = Counter(name="modelwarden_x_total", help="h", tells="t", components=("worker",))
    calls: tuple[Callable[[], None], ...] = (
        lambda: worker.add(stranger),
        lambda: worker.set(catalogue.GRAFANA_UP, 1),  # another process's
        lambda: worker.add(catalogue.ALERTS, level="terrible"),
        lambda: worker.add(catalogue.ALERTS, severity="notice"),
        lambda: worker.add(catalogue.ALERTS),
        lambda: worker.clear(catalogue.GRAFANA_UP),
    )
    for wrong in calls:
        with pytest.raises(MetricsError):
            wrong()


def test_a_bounded_label_stays_within_its_bound() -> None:
    canary = Instruments("canary")
    for number in range(catalogue.MAX_CANARY_MODELS):
        canary.set(catalogue.CANARY_LAST_CAUGHT, 1, model=f"m{number}")
    canary.set(catalogue.CANARY_LAST_CAUGHT, 2, model="m0")
    with pytest.raises(MetricsError, match="over 64 series"):
        canary.set(catalogue.CANARY_LAST_CAUGHT, 1, model="one too many")
    canary.remove(catalogue.CANARY_LAST_CAUGHT, model="m0")
    canary.set(catalogue.CANARY_LAST_CAUGHT, 1, model="the next")


def test_listed_values_begin_at_0() -> None:
    annotate = Instruments("annotate")
    for label in catalogue.ANNOTATIONS_OFFERED.labels:
        assert [annotate.value(catalogue.ANNOTATIONS_OFFERED, **{label.name: v}) for v in label.values] == [
            0.0
        ] * len(label.values)


@pytest.mark.parametrize("component", COMPONENTS)
def test_promtool_finds_nothing_to_say_of_a_scrape(component: Component, promtool: str) -> None:
    text = prometheus_client.generate_latest(Instruments(component).registry)
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""


def test_the_documents_are_those_of_the_catalogue() -> None:
    assert main(["--check"]) == 0, "run `python -m sinks.metrics`"
    text = b"".join(documents().values()).decode()
    assert all(entry["name"] in text for entry in entries())


def test_a_label_needs_a_bound() -> None:
    assert Label(name="model").at_most == 1024
