"""The dashboards: made by their builder, valid, without overlap, asking for what exists."""

from __future__ import annotations

import json
import re
import subprocess
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from rulebook import load_alerts, load_groups

from deploy.grafana.build import FOLDER, dashboards, main
from sinks.grafana.desired import DASHBOARDS, load_dashboard
from sinks.metrics.catalogue import CATALOGUE
from sinks.metrics.definition import Histogram

if TYPE_CHECKING:
    from pathlib import Path

BOARDS = {uid: load_dashboard(uid) for uid in DASHBOARDS}
WIDTH = 24


def queries(board: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]


def test_the_files_are_what_the_builder_makes() -> None:
    assert main(["--check"]) == 0, "run `python -m deploy.grafana.build`"
    assert (
        {path.name for path in FOLDER.iterdir()} == set(dashboards()) == {f"{uid}.json" for uid in DASHBOARDS}
    )


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_it_is_valid_by_grafanas_own_classes(uid: str) -> None:
    from grafana_foundation_sdk.cog.encoder import JSONEncoder  # noqa: PLC0415 - after the builder's filter
    from grafana_foundation_sdk.models.dashboard import Dashboard  # noqa: PLC0415 - same

    board = BOARDS[uid]
    assert json.loads(JSONEncoder().encode(Dashboard.from_json(board))) == board, (
        "something is not of the schema"
    )


def faults(board: dict[str, Any]) -> list[str]:
    """Everything wrong with a dashboard's layout."""
    found: list[str] = []
    taken: dict[tuple[int, int], str] = {}
    for panel in board["panels"]:
        place = panel["gridPos"]
        if place["x"] + place["w"] > WIDTH:
            found.append(f"{panel['title']} is wider than the page")
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                other = taken.setdefault((x, y), panel["title"])
                if other != panel["title"]:
                    found.append(f"{panel['title']} lies over {other}")
    ids = [panel["id"] for panel in board["panels"]]
    found += [f"id {one} is used twice" for one, other in pairwise(sorted(ids)) if one == other]
    found += [
        f"{p['title']} says nothing"
        for p in board["panels"]
        if p["type"] != "row" and not p.get("description")
    ]
    bands: dict[int, int] = {}
    for panel in board["panels"]:
        bands[panel["gridPos"]["y"]] = bands.get(panel["gridPos"]["y"], 0) + panel["gridPos"]["w"]
    return found + [f"the band at {y} is {width} wide" for y, width in bands.items() if width != WIDTH]


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_its_layout_has_no_fault(uid: str) -> None:
    assert faults(BOARDS[uid]) == []


def test_the_layout_check_finds_planted_faults() -> None:
    board = json.loads(json.dumps(BOARDS["modelwarden-health"]))
    board["panels"][1]["gridPos"]["w"] = 25
    board["panels"][2]["id"] = board["panels"][3]["id"]
    board["panels"][4]["description"] = ""
    found = " ".join(faults(board))
    assert all(word in found for word in ("wider", "lies over", "twice", "says nothing", "band"))


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_promtool_understands_every_query(uid: str, promtool: str, tmp_path: Path) -> None:
    asked = [
        expr.replace("$__rate_interval", "5m").replace("$key_ref", "k0-aa") for expr in queries(BOARDS[uid])
    ]
    rules = [{"record": f"x:{number}", "expr": expr} for number, expr in enumerate(asked)]
    file = tmp_path / "rules.json"
    file.write_text(json.dumps({"groups": [{"name": "x", "rules": rules}]}))
    done = subprocess.run(
        [promtool, "check", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_queries_ask_only_for_what_exists() -> None:
    known = {rule["record"] for group in load_groups() for rule in group["rules"] if "record" in rule}
    for name, metric in CATALOGUE.items():
        known |= {name + end for end in ("_bucket", "_count")} if isinstance(metric, Histogram) else {name}
    for board in BOARDS.values():
        for expr in queries(board):
            names = re.sub(r'"[^"]*"', "", expr)
            assert set(re.findall(r"\bmodelwarden[_:][a-z0-9_:]+", names)) <= known, expr


def test_every_alert_leads_to_a_panel_that_is_there() -> None:
    for name, rule in load_alerts().items():
        notes = rule["annotations"]
        panels = {panel["id"]: panel for panel in BOARDS[notes["__dashboardUid__"]]["panels"]}
        assert panels[int(notes["__panelId__"])]["type"] != "row", name
        assert rule["labels"].keys() == {"severity", "area", "team", "service"}, name
        assert rule["labels"]["severity"] in {"page", "ticket", "heartbeat"}, name
        assert notes["dashboard_url"].partition("?")[0].removeprefix("/d/") in BOARDS, name
        assert notes["runbook_url"] == f"deploy/runbooks/{name}.md"
