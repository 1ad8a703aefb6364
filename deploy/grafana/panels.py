"""Panels, queries and the frame of a dashboard: what the dashboards are made of."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import prometheus, stat, table, timeseries
from grafana_foundation_sdk.models.common import DataSourceRef
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    Threshold,
    ThresholdsMode,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

Query = tuple[str, str]
"""PromQL and the legend of its series."""
Rows = tuple[tuple[str, tuple[Any, ...]], ...]
"""The panels of a dashboard below their headings; without one where that is empty."""

WIDTH = 24
SOURCE = DataSourceRef(type_val="prometheus", uid="${source}")
MARKS = (
    ("Findings", "red", "kind:alert"),
    ("Commands", "orange", "kind:command"),
    ("Policies and windows", "blue", "kind:policy"),
)


def pace(metric: str, by: str = "") -> str:
    """Return the PromQL for a counter's increase a second."""
    return f"sum{f' by ({by})' if by else ''} (rate({metric}[$__rate_interval]))"


def more(metric: str, by: str = "") -> str:
    """Return the PromQL for a counter's increase between two points of the panel."""
    return f"sum{f' by ({by})' if by else ''} (increase({metric}[$__rate_interval]))"


def quantile(share: float, metric: str) -> str:
    """Return the PromQL for a histogram's quantile."""
    return f"histogram_quantile({share:g}, {pace(f'{metric}_bucket', 'le')})"


def busy(metric: str, by: str) -> str:
    """Return the PromQL for those of a counter's series that rise, and one sum if none does."""
    return f"{more(metric, by)} > 0 or {more(metric)}"


def busy_pace(metric: str, by: str) -> str:
    """Return the PromQL for the paces of those of a counter's series that rise, and one sum if none does."""
    return f"{pace(metric, by)} > 0 or {pace(metric)}"


def query(expr: str, legend: str, number: int, *, instant: bool = False) -> Any:
    """Return a Prometheus query."""
    made = prometheus.Dataquery().expr(expr).legend_format(legend).ref_id(chr(ord("A") + number))
    return made.instant() if instant else made.range()


def lines(panel: int, title: str, tells: str, unit: str, *queries: Query, width: int = 12) -> Any:
    """Return a panel of lines over time."""
    made = timeseries.Panel().id(panel).title(title).description(tells).unit(unit).datasource(SOURCE)
    made = made.span(width).height(8).min(0)
    for number, (expr, legend) in enumerate(queries):
        made = made.with_target(query(expr, legend, number))
    return made


def number(  # noqa: PLR0913 - what a panel shows
    panel: int, title: str, tells: str, unit: str, asked: Query, *, red: float | None = None
) -> Any:
    """Return a panel of one number (or a few), red from a threshold on."""
    steps = [Threshold(value=None, color="green")]
    if red is not None:
        steps.append(Threshold(value=red, color="red"))
    made = stat.Panel().id(panel).title(title).description(tells).unit(unit).datasource(SOURCE)
    made = made.span(6).height(5).with_target(query(*asked, 0, instant=True))
    return made.thresholds(build.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))


def rows(panel: int, title: str, tells: str, expr: str, *, width: int) -> Any:
    """Return a table of the series that an instant query gives."""
    made = table.Panel().id(panel).title(title).description(tells).datasource(SOURCE).span(width).height(10)
    return made.with_target(query(expr, "", 0, instant=True).format(PromQueryFormat.TABLE))


def base(uid: str, title: str, tells: str) -> Any:
    """Return an empty dashboard with its data source, its marks and links to the others."""
    made = (
        build.Dashboard(title)
        .uid(uid)
        .description(tells)
        .tags(["modelwarden", "generated"])
        .refresh("30s")
        .time("now-6h", "now")
        .timezone("utc")
        .with_variable(build.DatasourceVariable("source").type("prometheus").label("Prometheus"))
        .link(
            build.DashboardLink("Modelwarden")
            .type(DashboardLinkType.DASHBOARDS)
            .tags(["modelwarden"])
            .keep_time(True)  # noqa: FBT003 - the SDK's signature
        )
    )
    for name, colour, kind in MARKS:
        target: Any = build.AnnotationTarget().limit(100).type("tags").tags(["modelwarden", kind])
        target = target.match_any(False)  # noqa: FBT003 - same
        marks = build.AnnotationQuery().name(name).icon_color(colour).enable(True).target(target)  # noqa: FBT003 - same
        made = made.annotation(marks.datasource(DataSourceRef(type_val="grafana", uid="-- Grafana --")))
    return made


def assemble(frame: Any, rows: Rows) -> Any:
    """Put panels into a dashboard, by heading; headings need ids of their own, or they overlap."""
    for row, (heading, panels) in enumerate(rows):
        if heading:
            frame = frame.with_row(build.Row(heading).id(101 + row))
        for panel in panels:
            frame = frame.with_panel(panel)
    return frame
