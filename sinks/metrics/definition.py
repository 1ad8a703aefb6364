"""What a metric is: name, kind, unit, labels with a bound on their values, and what it tells the operator."""

from __future__ import annotations

import re
from math import prod
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

PREFIX = "modelwarden_"

Component = Literal["worker", "serving", "reconcile", "revoker", "annotate", "canary"]
"""A process that answers scrapes. `serving` is the provider's own process, or the sidecar beside it."""

COMPONENTS: tuple[Component, ...] = get_args(Component)

Unit = Literal["", "seconds", "bytes", "records", "ratio", "log10", "timestamp_seconds"]
"""Stands at the end of the name (before `_total`), except where it is empty: a plain number of things."""

_NAME = re.compile(r"modelwarden(_[a-z0-9]+)+")


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """One label; its values are known beforehand, or their number is."""

    name: str
    values: tuple[str, ...] = ()
    """All there are; empty where only `at_most` is known."""
    at_most: Annotated[int, Meta(ge=1)] = 1024
    """Series beyond this many values are refused; only for a label without a list of values."""


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the catalogue; use `Counter`, `Gauge` or `Histogram`.

    Raises
    ------
    ValueError
        If the name does not follow the rules that `promtool check metrics` has.
    """

    name: str
    help: str
    """What is counted or measured: one short sentence without a full stop, shown beside the value."""
    tells: str
    """What the operator learns from it, and what to do."""
    components: tuple[Component, ...]
    unit: Unit = ""
    labels: tuple[Label, ...] = ()
    budget: Annotated[int, Meta(ge=1)] | None = None
    """Most combinations of labels, where that is less than all."""

    @property
    def kind(self) -> str:
        """`counter`, `gauge` or `histogram`."""
        return type(self).__name__.lower()

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels, in order."""
        return tuple(label.name for label in self.labels)

    @property
    def series(self) -> int:
        """Most series that one process can export."""
        return self.budget or prod(len(label.values) or label.at_most for label in self.labels)

    def __post_init__(self) -> None:
        """Check the name."""
        ending = f"_{self.unit}" if self.unit else ""
        ending += "_total" if self.kind == "counter" else ""
        if not _NAME.fullmatch(self.name) or not self.name.endswith(ending):
            raise ValueError(f"a {self.kind} must be named {PREFIX}...{ending}, not {self.name}")
        if self.kind != "counter" and self.name.endswith("_total"):
            raise ValueError(f"{self.name}: only a counter ends in _total")


class Counter(Metric, frozen=True, kw_only=True):
    """Only rises, from 0 at the start of the process."""


class Gauge(Metric, frozen=True, kw_only=True):
    """Rises and falls."""


class Histogram(Metric, frozen=True, kw_only=True):
    """Counts observations by size."""

    buckets: tuple[float, ...]
    """Upper bounds, rising; the last, infinite one is added."""

    @property
    def series(self) -> int:
        """Most series that one process can export: the buckets, the infinite one, sum and count."""
        return super().series * (len(self.buckets) + 3)
