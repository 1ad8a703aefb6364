"""The dashboards as pictures of what a real Prometheus answers, for eyes where no Grafana is at hand."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from test_dashboards import BOARDS

if TYPE_CHECKING:
    from pathlib import Path

    from stack import Stack

CELL_W, CELL_H, PAD = 50, 30, 6
COLOURS = ("#7eb26d", "#eab839", "#6ed0e0", "#ef843c", "#e24d42", "#1f78c1", "#ba43a9", "#705da0")


def draw_boards(stack: Stack, folder: Path, *, range_s: int, key_ref: str) -> list[Path]:
    """Write one HTML page a dashboard; return them."""
    pages = []
    for uid, board in BOARDS.items():
        drawn = "".join(_panel(stack, panel, range_s, key_ref) for panel in board["panels"])
        height = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in board["panels"]) * CELL_H + 60
        page = folder / f"{uid}.html"
        style = "body{background:#111217;color:#ccccdc;font:12px DejaVu Sans;margin:8px}h1{font-size:18px}"
        page.write_text(
            f"<meta charset=utf-8><style>{style}</style><h1>{html.escape(board['title'])}</h1>"
            f"<div style='position:relative;width:{24 * CELL_W}px;height:{height}px'>{drawn}</div>"
        )
        pages.append(page)
    return pages


def _panel(stack: Stack, panel: dict[str, Any], range_s: int, key_ref: str) -> str:
    at = panel["gridPos"]
    width, height = at["w"] * CELL_W - PAD, at["h"] * CELL_H - PAD
    title = html.escape(panel["title"].replace("$key_ref", key_ref))
    if panel["type"] == "row":
        inner = f"<b>{title}</b>"
    else:
        series = []
        for target in panel["targets"]:
            asked = target["expr"].replace("$__rate_interval", "30s").replace("$key_ref", key_ref)
            over_s = 0 if panel["type"] != "timeseries" else range_s
            found = stack.query(asked, range_s=over_s, step_s=2)
            series += [(_name(target.get("legendFormat", ""), one["metric"]), one) for one in found]
        draw = {"timeseries": _lines, "stat": _number, "table": _rows}[panel["type"]]
        inner = f"<div>{title}</div>" + (draw(series, width, height - 20) if series else "<i>no data</i>")
    frame = "" if panel["type"] == "row" else "background:#181b1f;border:1px solid #2c3235;"
    place = f"left:{at['x'] * CELL_W}px;top:{at['y'] * CELL_H}px;width:{width}px;height:{height}px"
    return f"<div style='position:absolute;overflow:hidden;{frame}{place}'>{inner}</div>"


def _name(legend: str, labels: dict[str, str]) -> str:
    for name, value in labels.items():
        legend = legend.replace(f"{{{{{name}}}}}", value)
    return legend if "{{" not in legend else "all"


def _lines(series: list[tuple[str, dict[str, Any]]], width: int, height: int) -> str:
    gaps = {"NaN", "+Inf"}
    points = [[(float(t), float(v)) for t, v in one["values"] if v not in gaps] for _, one in series]
    every = [p for line in points for p in line] or [(0.0, 0.0)]
    t0, t1 = min(t for t, _ in every), max(t for t, _ in every)
    top = max([v for _, v in every] + [1e-9])
    plot = height - 34
    drawn, legend = "", ""
    for number, ((name, _), line) in enumerate(zip(series, points, strict=True)):
        colour = COLOURS[number % len(COLOURS)]
        across, up = (width - 50) / max(t1 - t0, 1), (plot - 8) / top
        path = " ".join(f"{40 + across * (t - t0):.0f},{plot - up * v:.0f}" for t, v in line)
        drawn += f"<polyline fill=none stroke='{colour}' stroke-width=1.5 points='{path}'/>"
        legend += f"<span style='color:{colour}'>&#9632; {html.escape(name)}</span> "
    marks = ((14, f"{top:.3g}"), (plot, "0"))
    axis = "".join(f"<text x=2 y={y} fill='#888' font-size=10>{text}</text>" for y, text in marks)
    return f"<svg width={width} height={plot + 6}>{axis}{drawn}</svg><div>{legend}</div>"


def _number(series: list[tuple[str, dict[str, Any]]], _width: int, _height: int) -> str:
    shown = [f"{html.escape(name)} {float(one['value'][1]):.4g}".strip() for name, one in series]
    style = "font-size:34px;text-align:center;color:#73bf69;padding-top:20px"
    return f"<div style='{style}'>{'<br>'.join(shown)}</div>"


def _rows(series: list[tuple[str, dict[str, Any]]], _width: int, _height: int) -> str:
    lines = [[*one["metric"].values(), one["value"][1]] for _, one in series]
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(v)}</td>" for v in line) + "</tr>" for line in lines)
    heads = "".join(f"<th align=left>{html.escape(n)}</th>" for n in (*series[0][1]["metric"], "value"))
    return f"<table cellpadding=4><tr>{heads}</tr>{rows}</table>"
