"""The alert rules under promtool, the routes under amtool."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from rule_cases import CASES, Case
from rulebook import DEPLOY, RULES_FILE, load_alerts, load_groups

from sinks.metrics.catalogue import CATALOGUE
from sinks.metrics.definition import Histogram

if TYPE_CHECKING:
    from pathlib import Path

ALERTS = load_alerts()
GROUPS = [group["name"] for group in load_groups()]
WATCHDOG = "ModelwardenWatchdog"
ROUTES = DEPLOY / "alertmanager" / "alertmanager.yml"


def run_promtool(promtool: str, folder: Path, test: dict[str, Any], evaluation: str = "30s") -> None:
    file = folder / "test.json"
    plan = {
        "rule_files": [str(RULES_FILE)],
        "evaluation_interval": evaluation,
        # Without it promtool draws an order: alerts would see the recording rules' last round, or none.
        "group_eval_order": GROUPS,
        "tests": [test],
    }
    file.write_text(json.dumps(plan))
    done = subprocess.run([promtool, "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


def firing(alert: str, at: str, labels: str = "", *, is_firing: bool = False) -> dict[str, Any]:
    names = ", ".join(["severity", *re.findall(r"(\w+)=", labels)])
    expr = f'sum by ({names}) (ALERTS{{alertname="{alert}",alertstate="firing"}})'
    severity = ALERTS[alert]["labels"]["severity"]
    told = ",".join([f'severity="{severity}"', *([labels] if labels else [])])
    samples = [{"labels": f"{{{told}}}", "value": 1}] if is_firing else []
    return {"expr": expr, "eval_time": at, "exp_samples": samples}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_an_alert_is_silent_fires_and_resolves(case: Case, promtool: str, tmp_path: Path) -> None:
    alert = f"Modelwarden{case.alert}"
    test = {
        "interval": case.interval,
        "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
        "promql_expr_test": [
            *(firing(alert, at) for at in case.silent),
            *(firing(alert, at, case.labels, is_firing=True) for at in case.fires),
            firing(alert, case.resolved),
        ],
    }
    run_promtool(promtool, tmp_path, test, case.evaluation)


def test_every_alert_has_a_case() -> None:
    assert {f"Modelwarden{case.alert}" for case in CASES} | {WATCHDOG} == set(ALERTS)


def test_a_cold_start_is_silent(promtool: str, tmp_path: Path) -> None:
    """Metrics begin at 0 (the canary's at its start), traffic and honest alerts come up: nobody is called."""
    series = {'up{job="modelwarden-worker",instance="w0"}': "1x120"}
    for metric in CATALOGUE.values():
        if metric.name.startswith(
            ("modelwarden_flagged", "modelwarden_canary_last", "modelwarden_audit_verified")
        ):
            continue
        for suffix in ("_bucket", "_count", "_sum") if isinstance(metric, Histogram) else ("",):
            series[metric.name + suffix] = "0x120"
    series |= {
        "modelwarden_events_total": "0+6000x120",
        'modelwarden_consumer_lag_records{topic="events",partition="0"}': "90000 60000 30000 0x117",
        "modelwarden_audit_verified_timestamp_seconds": "0x60 3600x60",
        'modelwarden_canary_last_caught_timestamp_seconds{model="digits"}': "0+60x120",
        'modelwarden_alerts_total{level="warning"}': "0x4 0+12x5 60x111",
        "modelwarden_grafana_up": "1x120",
        "modelwarden_flagged_key_level{" + 'key_ref="k0-bb",model="digits",family="rate"}': "1x120",
    }
    quiet = {
        "expr": f'sum by (alertname) (ALERTS{{alertstate="firing",alertname!="{WATCHDOG}"}})',
        "exp_samples": [],
    }
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            quiet | {"eval_time": at} for at in ("30s", "2m", "5m", "10m", "20m", "31m", "40m", "1h", "2h")
        ]
        + [firing(WATCHDOG, "30s", is_firing=True), firing(WATCHDOG, "2h", is_firing=True)],
    }
    run_promtool(promtool, tmp_path, test)


def test_the_words_of_a_page(promtool: str, tmp_path: Path) -> None:
    alert = "ModelwardenKeyExtraction"
    told = {"severity": "page", "area": "security", "team": "ml-security", "service": "modelwarden"}
    expected = {
        "exp_labels": {**told, "key_ref": "k0-aa", "model": "digits"},
        "exp_annotations": {
            "summary": "Key k0-aa is copying digits: critical",
            "runbook_url": "deploy/runbooks/ModelwardenKeyExtraction.md",
            "dashboard_url": "/d/modelwarden-key?var-key_ref=k0-aa",
            "__dashboardUid__": "modelwarden-security",
            "__panelId__": "2",
        },
    }
    test = {
        "interval": "1m",
        "input_series": [
            {
                "series": 'modelwarden_flagged_key_level{key_ref="k0-aa",model="digits",family="rate"}',
                "values": "3x5",
            }
        ],
        "alert_rule_test": [{"eval_time": "1m", "alertname": alert, "exp_alerts": [expected]}],
    }
    run_promtool(promtool, tmp_path, test)


def test_rules_ask_only_for_what_the_catalogue_has() -> None:
    known = {
        name + suffix
        for name, metric in CATALOGUE.items()
        for suffix in (("_bucket", "_count", "_sum") if isinstance(metric, Histogram) else ("",))
    }
    asked = set(
        re.findall(r"\bmodelwarden_[a-z0-9_]+", "\n".join(str(rule["expr"]) for rule in ALERTS.values()))
    )
    assert asked - known == {"modelwarden_"} & asked


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        ("severity=page area=security alertname=ModelwardenKeyExtraction key_ref=k0-aa", "pager-security"),
        ("severity=page area=health alertname=ModelwardenWorkerDown", "pager-platform"),
        ("severity=page area=meta alertname=ModelwardenGrafanaDown", "pager-platform"),
        ("severity=ticket area=security alertname=ModelwardenKeySuspected", "tickets"),
        ("severity=ticket area=health alertname=ModelwardenDeadLetters", "tickets"),
        ("severity=heartbeat area=meta alertname=ModelwardenWatchdog", "heartbeat"),
    ],
)
def test_alerts_go_to_their_receiver(labels: str, receiver: str, amtool: str) -> None:
    command = [amtool, "config", "routes", "test", f"--config.file={ROUTES}", *labels.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [receiver]


def test_the_configurations_are_valid(promtool: str, amtool: str) -> None:
    subprocess.run([promtool, "check", "config", str(DEPLOY / "prometheus" / "prometheus.yml")], check=True)
    subprocess.run([amtool, "check-config", str(ROUTES)], check=True)
