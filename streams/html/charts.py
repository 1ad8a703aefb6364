"""Charts of one key, as SVG of a fixed small width, so that their text keeps its size on a phone."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, NamedTuple

from detectors.alert import LEVELS
from detectors.watch import BUDGETS
from streams.fleet import EVIDENCE_BINS, EVIDENCE_STEP, evidence_of
from streams.html.element import Markup, join, tag
from streams.html.words import COMMAND_MARK, LEVEL_MARK, duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from detectors.alert import Alert, Extraction
    from sinks.records import Command
    from streams.fleet import Fleet, HistoryPoint

WIDTH, HEIGHT = 360, 190
LEFT, RIGHT, TOP, BOTTOM = 34, 10, 12, 26
BOUNDS = {level: evidence_of(budget) for level, budget in zip(LEVELS, BUDGETS, strict=True)}
"""-log10 of the share of honest keys that may reach each level."""
_FORECAST_FACTOR = 3.0
"""A forecast is drawn no further than so many times what has passed."""


class Plane(NamedTuple):
    """From values to places in a chart."""

    x_low: float
    x_high: float
    y_high: float

    def x(self, value: float) -> float:
        """Return the place of a value on the horizontal axis."""
        span = max(self.x_high - self.x_low, 1e-9)
        return round(LEFT + (value - self.x_low) / span * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        """Return the place of a value on the vertical axis, which begins at 0."""
        return round(HEIGHT - BOTTOM - value / max(self.y_high, 1e-9) * (HEIGHT - TOP - BOTTOM), 1)

    def axes(self, x_labels: Sequence[tuple[float, str]], y_labels: Sequence[tuple[float, str]]) -> Markup:
        """Draw both axes; the first label below stands left of its place's middle, the last one right."""
        bottom = HEIGHT - BOTTOM
        parts = [tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=bottom, y2=bottom, class_="axis")]
        for index, (value, text) in enumerate(x_labels):
            anchor = "start" if index == 0 else "end" if index == len(x_labels) - 1 else "middle"
            parts.append(tag("text", text, x=self.x(value), y=bottom + 17, text_anchor=anchor))
        parts += [tag("text", text, x=LEFT - 6, y=self.y(v) + 4, text_anchor="end") for v, text in y_labels]
        return join(parts)


def evidence_chart(
    points: Sequence[HistoryPoint], alerts: Sequence[Alert], commands: Sequence[Command]
) -> Markup:
    """Draw how the evidence about a key grew with its queries, the bounds it crossed, what followed."""
    marks = [(a.query_count, evidence_of(a.key_p_value), a) for a in alerts]
    line = _rising(
        [(p.query_count, p.evidence) for p in points] + [(query, value) for query, value, _ in marks]
    )
    last = line[-1][0]
    top = max(line[-1][1], BOUNDS["critical"]) + 0.5
    plane = Plane(0, max(last, 2), top)
    parts = [plane.axes([(0, "0"), (last, f"{last:,} queries")], [(n, str(n)) for n in range(int(top) + 1)])]
    names = []
    for level, bound in BOUNDS.items():
        y = plane.y(bound)
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_=f"bound b-{level}"))
        names.append(tag("text", level, x=WIDTH - RIGHT, y=y - 4, text_anchor="end", class_=f"halo {level}"))
    path = f"M{plane.x(0)},{plane.y(0)}" + "".join(f"H{plane.x(q)}V{plane.y(v)}" for q, v in line)
    parts.append(tag("path", d=f"{path}H{plane.x(last)}", class_="line"))
    parts += names
    for query, value, alert in marks:
        title = tag("title", f"{alert.level} at query {query:,}")
        place = {"x": plane.x(query), "y": plane.y(value) + 4.5, "text_anchor": "middle"}
        parts.append(tag("text", LEVEL_MARK[alert.level], title, class_=f"mark {alert.level}", **place))
    queries = {alert.alert_id: alert.query_count for alert in alerts}
    for command in commands:
        at = queries.get(command.alert_id)
        if at is not None:
            title = tag("title", f"{command.action} after query {at:,}")
            place = {"x": plane.x(at), "y": plane.y(0) - 4, "text_anchor": "middle"}
            parts.append(tag("text", COMMAND_MARK, title, class_="mark text", **place))
    return _svg("Evidence by the key's queries", parts)


def _rising(places: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Bring (query, evidence) into order; evidence once gathered stays."""
    line: list[tuple[int, float]] = []
    for query, value in sorted(places):
        line.append((query, max(value, line[-1][1] if line else 0.0)))
    return line


def budget_chart(points: Sequence[HistoryPoint], account: Extraction) -> Markup:
    """Draw what a key holds of what a copy needs, and where that leads at its pace."""
    start = points[0].time_ms
    line = [(point.time_ms - start, point.held_queries) for point in points]
    elapsed, held = line[-1]
    needed = float(account.needed_queries)
    pace = max(account.held_per_hour, 0.0) / 3_600_000
    left = (needed - held) / pace if pace > 0 and held < needed else None
    ahead = max(elapsed, 60_000) * _FORECAST_FACTOR if left is None else min(left, elapsed * _FORECAST_FACTOR)
    end = elapsed + (0.0 if held >= needed or pace == 0 else max(ahead, 60_000.0))
    plane = Plane(0, max(end, 60_000.0), max(needed, held) * 1.12)
    y = plane.y(needed)
    parts = [
        plane.axes(
            [(0, "first query"), (plane.x_high, f"{duration(plane.x_high)} later")],
            [(0, "0"), (needed, f"{needed:,.0f}")],
        ),
        tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="bound b-critical"),
        tag("text", "a copy of the model", x=LEFT + 6, y=y - 5, class_="critical"),
        tag("polyline", points=" ".join(f"{plane.x(x)},{plane.y(v)}" for x, v in line), class_="line"),
    ]
    if end > elapsed:
        forecast = held + pace * (end - elapsed)
        parts.append(
            tag("line", x1=plane.x(elapsed), y1=plane.y(held), x2=plane.x(end), y2=plane.y(forecast),
                class_="ahead")
        )  # fmt: skip
    return _svg("Extraction budget with its forecast", parts)


def fleet_chart(fleet: Fleet, p_value: float) -> Markup:
    """Draw how odd all keys of the model are, and where this one stands among them."""
    highest = EVIDENCE_BINS * EVIDENCE_STEP
    tallest = sqrt(max(*fleet.evidence_counts, 1))
    plane = Plane(0, highest, 1.12)
    here = min(int(evidence_of(p_value) / EVIDENCE_STEP), EVIDENCE_BINS - 1)
    bounds = [(bound, f"1 in {10**bound:,.0f}") for bound in (2, 4)]
    parts = [plane.axes([(0, "ordinary"), *bounds, (highest, "odd")], [])]
    for index, count in enumerate(fleet.evidence_counts):
        if count:
            left, right = plane.x(index * EVIDENCE_STEP), plane.x((index + 1) * EVIDENCE_STEP)
            y = plane.y(sqrt(count) / tallest)
            kind = "bin here" if index == here else "bin odd" if index * EVIDENCE_STEP >= 2 else "bin"
            title = tag("title", f"{count:,} keys")
            parts.append(
                tag("rect", title, x=left + 0.5, y=y, width=round(right - left - 1, 1),
                    height=round(plane.y(0) - y, 1), rx=1.5, class_=kind)
            )  # fmt: skip
    for level, bound in BOUNDS.items():
        x = plane.x(bound)
        parts.append(tag("line", x1=x, x2=x, y1=TOP, y2=plane.y(0), class_=f"bound b-{level}"))
    middle = plane.x((here + 0.5) * EVIDENCE_STEP)
    count = fleet.evidence_counts[here]
    top = plane.y(sqrt(count) / tallest if count else 0.0)
    parts.append(tag("text", "▼", x=middle, y=top - 5, text_anchor="middle", class_="mark critical"))
    return _svg("How odd all keys of the model are", parts)


def _svg(label: str, parts: list[Markup]) -> Markup:
    return tag("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=label)
