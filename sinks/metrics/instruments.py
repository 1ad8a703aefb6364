"""The metrics of one process: counts by the catalogue, and refuses what is not in it.

Who calls it: whatever has something to count. Nothing here blocks; a scrape reads in a thread of its own.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import prometheus_client

from sinks.metrics.catalogue import CATALOGUE
from sinks.metrics.definition import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from sinks.metrics.definition import Component, Metric

# They would double the number of series.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]


class MetricsError(ValueError):
    """A metric, or a value of a label, is not in the catalogue: a defect of the caller."""


class Instruments:
    """Every metric of a component, in a registry of its own.

    Metrics whose labels have listed values begin at 0, so that the first increase is seen.

    Parameters
    ----------
    component : Component
        The process that this is.
    """

    def __init__(self, component: Component) -> None:
        self.registry = prometheus_client.CollectorRegistry()
        self._values = {
            name: {label.name: label.values for label in metric.labels} for name, metric in CATALOGUE.items()
        }
        self._made: dict[str, Any] = {
            name: self._make(metric) for name, metric in CATALOGUE.items() if component in metric.components
        }

    def _make(self, metric: Metric) -> Any:
        kinds: dict[str, Any] = {
            "counter": prometheus_client.Counter,
            "gauge": prometheus_client.Gauge,
            "histogram": prometheus_client.Histogram,
        }
        options = {"buckets": metric.buckets} if isinstance(metric, Histogram) else {}
        made = kinds[metric.kind](
            metric.name, metric.help, metric.label_names, registry=self.registry, **options
        )
        if metric.labels and all(label.values for label in metric.labels):
            for values in product(*(label.values for label in metric.labels)):
                made.labels(*values)
        return made

    def add(self, metric: Counter, amount: float = 1, /, **labels: str) -> None:
        """Let a counter rise. Raises MetricsError."""
        self._find(metric, labels).inc(amount)

    def set(self, metric: Gauge, value: float, /, **labels: str) -> None:
        """Set a gauge. Raises MetricsError."""
        self._find(metric, labels).set(value)

    def remove(self, metric: Gauge, /, **labels: str) -> None:
        """Take one series of a gauge out of the next scrapes. Raises MetricsError, KeyError if not there."""
        self._find(metric, labels)
        self._made[metric.name].remove(*(labels[name] for name in metric.label_names))

    def clear(self, metric: Gauge) -> None:
        """Take all series of a gauge out of the next scrapes. Raises MetricsError."""
        if metric.name not in self._made:
            raise _unknown(metric)
        self._made[metric.name].clear()

    def observe(self, metric: Histogram, value: float, /, **labels: str) -> None:
        """Add an observation to a histogram. Raises MetricsError."""
        self._find(metric, labels).observe(value)

    def time(self, metric: Histogram, /, **labels: str) -> AbstractContextManager[Any]:
        """Observe the seconds that a `with` block takes. Raises MetricsError."""
        timer: AbstractContextManager[Any] = self._find(metric, labels).time()
        return timer

    def value(self, metric: Counter | Gauge, /, **labels: str) -> float:
        """Return what a counter or gauge stands at. Raises MetricsError."""
        self._find(metric, labels)
        found = self.registry.get_sample_value(metric.name, labels)
        return 0.0 if found is None else found

    def _find(self, metric: Metric, labels: dict[str, str]) -> Any:
        made = self._made.get(metric.name)
        if made is None:
            raise _unknown(metric)
        if not labels and not metric.labels:
            return made
        if labels.keys() != self._values[metric.name].keys():
            raise MetricsError(f"{metric.name} has the labels {metric.label_names}, not {tuple(labels)}")
        for label in metric.labels:
            if label.values and labels[label.name] not in label.values:
                raise MetricsError(f"{metric.name}: {label.name} is none of {', '.join(label.values)}")
        series = made._metrics  # noqa: SLF001 - the library has no count of series
        if len(series) >= metric.series and tuple(labels[n] for n in metric.label_names) not in series:
            raise MetricsError(f"{metric.name}: over {metric.series} series")
        return made.labels(**labels)


def _unknown(metric: Metric) -> MetricsError:
    return MetricsError(f"{metric.name} is not a metric of this component (sinks.metrics.catalogue)")
