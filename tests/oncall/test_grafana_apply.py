"""A full apply against Grafana's own documents; and that the checker refuses wrong calls."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from click.testing import CliRunner
from grafana_contract import DEVIATIONS, Contract

from sinks.errors import FileFormatError
from sinks.grafana import silences
from sinks.grafana.alerting import alert_groups, alert_labels, load_rule_groups
from sinks.grafana.client import GrafanaClient
from sinks.grafana.config import load_config
from sinks.grafana.desired import desired_items
from sinks.grafana.errors import GrafanaDriftError, GrafanaVersionError
from sinks.grafana.plan import apply_plan, differences, make_plan
from streams.cli import main

if TYPE_CHECKING:
    from pathlib import Path

    from grafana_double import GrafanaDouble

HEADERS = {"Authorization": "Bearer t"}
CONFIG = load_config(None, {})


def run(*words: str, url: str) -> Any:
    environ = {"MODELWARDEN_GRAFANA_URL": url, "MODELWARDEN_GRAFANA_TOKEN": "token"}
    return CliRunner().invoke(main, ["grafana", *words], env=environ)


def test_plan_apply_verify_and_again_without_a_violation(grafana: GrafanaDouble) -> None:
    planned = run("plan", "-o", "ndjson", url=grafana.url)
    assert {json.loads(line)["action"] for line in planned.stdout.splitlines()} == {"create"}
    assert not grafana.store, "plan writes nothing"
    assert run("verify", url=grafana.url).exit_code == 1
    applied = run("apply", "-o", "ndjson", url=grafana.url)
    assert applied.exit_code == 0, applied.output
    assert len(applied.stdout.splitlines()) == 2 + 3 + 3 + 2
    written = [call for call in grafana.calls if call[0] != "GET"]
    assert run("verify", url=grafana.url).exit_code == 0
    assert run("apply", url=grafana.url).exit_code == 0
    assert [call for call in grafana.calls if call[0] != "GET"] == written, "doing it again changes nothing"
    assert grafana.violations == []


def test_what_somebody_changed_is_named_and_put_right(grafana: GrafanaDouble) -> None:
    client = GrafanaClient(grafana.url, "token")
    items = desired_items(CONFIG)
    list(apply_plan(client, items))
    key = next(path for path in grafana.store if path.endswith("rule-groups/modelwarden-security"))
    grafana.store[key]["rules"][0]["for"] = "9m"
    grafana.store["/folders/modelwarden"]["title"] = "Theirs"
    changed = {step.name: step.difference for step in make_plan(client, items) if step.action != "none"}
    assert changed == {
        "modelwarden": "$.title is 'Theirs', not 'Modelwarden'",
        "modelwarden-security": "$.rules[0].for is '9m', not '0s'",
    }
    assert [s.name for s in apply_plan(client, items) if s.action == "change"] == list(changed)
    assert grafana.violations == []
    client.close()


def test_a_server_that_drops_what_it_is_told_is_found_out(grafana: GrafanaDouble) -> None:
    grafana.folder_uid_is_ignored = True
    client = GrafanaClient(grafana.url, "token")
    with pytest.raises(GrafanaDriftError, match=r"\$\.meta\.folderUid is None, not 'modelwarden'"):
        list(apply_plan(client, desired_items(CONFIG)))
    client.close()


@pytest.mark.parametrize("version", ["7.5.5", "9.5.1", ""])
def test_an_old_server_is_refused_before_anything_is_written(grafana: GrafanaDouble, version: str) -> None:
    grafana.version = version
    client = GrafanaClient(grafana.url, "token")
    with pytest.raises(GrafanaVersionError, match="Use Grafana 10 or later"):
        list(apply_plan(client, desired_items(CONFIG)))
    assert grafana.calls == [("GET", "/api/health")]
    client.close()


RULES = "/api/v1/provisioning/folder/modelwarden/rule-groups/modelwarden-security"
GROUP = alert_groups(load_rule_groups(), CONFIG)[0]


def broken(**changes: Any) -> dict[str, Any]:
    group: dict[str, Any] = json.loads(json.dumps(GROUP))
    group["rules"][0] |= changes
    return group


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("PUT", RULES, broken(execErrState="KeepState")),
        ("PUT", RULES, broken(**{"for": "PT1M"})),
        ("PUT", RULES, broken(noDataState=None)),
        ("PUT", RULES, broken(runbook="x")),
        ("PUT", RULES, broken(notification_settings={"group_by": ["alertname"]})),
        ("PUT", RULES, broken(labels={"severity": 1})),
        ("POST", RULES, GROUP),
        ("PUT", RULES.replace("rule-groups", "rulegroups"), GROUP),
        ("POST", "/api/v1/provisioning/contact-points", {"name": "p", "type": "pager", "settings": {}}),
        ("POST", "/api/v1/provisioning/contact-points", {"name": "p", "type": "webhook"}),
        ("POST", "/api/dashboards/db", {"folderUid": "modelwarden"}),
        ("POST", "/api/dashboards/db", {"dashboard": {}, "folderUID": "modelwarden"}),
        ("POST", "/api/annotations", {"text": "t", "dashboardUid": "d"}),
        ("POST", "/api/annotations", {"time": 1}),
        ("POST", "/api/annotations", {"text": "t", "tags": "one"}),
        ("POST", "/api/annotations", None),
        ("GET", "/api/annotations?tag=x", None),
        ("POST", "/api/alertmanager/grafana/api/v2/silences", {"comment": "c", "matchers": []}),
        ("POST", "/api/alert-notifications", {"name": "n"}),
        ("GET", "/api/dashboards/name/x", None),
    ],
)
def test_the_checker_refuses_planted_mistakes(
    contract: Contract, method: str, target: str, body: Any
) -> None:
    raw = b"" if body is None else json.dumps(body).encode()
    assert contract.check(method, target, raw, HEADERS)[1], "a mistake went through"


def test_the_checker_allows_what_is_right(contract: Contract) -> None:
    for method, target, body in (
        ("PUT", RULES, GROUP),
        ("POST", "/api/annotations", {"text": "t", "dashboardId": None, "tags": ["a"], "time": 1}),
        ("GET", "/api/annotations?tags=a&tags=b&limit=1", None),
    ):
        raw = b"" if body is None else json.dumps(body).encode()
        assert contract.check(method, target, raw, HEADERS)[1] == []
    assert contract.check("GET", "/api/annotations", b"", {})[1] == ["GET /annotations: no Authorization"]
    assert all(len(reason) > 20 for reason in DEVIATIONS.values())


def test_rules_keep_their_meaning_in_grafana() -> None:
    rules = {
        rule["title"]: rule for group in alert_groups(load_rule_groups(), CONFIG) for rule in group["rules"]
    }
    assert len({rule["uid"] for rule in rules.values()}) == len(rules)
    assert "ModelwardenGrafanaDown" not in rules, "that Grafana is down, Grafana cannot say"
    theft = rules["ModelwardenKeyExtraction"]
    assert theft["execErrState"] == "Alerting", "Prometheus away must not look like all is well"
    assert theft["notification_settings"]["receiver"] == "modelwarden-pager-security"
    assert theft["notification_settings"]["group_by"] == ["alertname", "grafana_folder", "key_ref"]
    assert rules["ModelwardenDeadLetters"]["notification_settings"]["receiver"] == "modelwarden-tickets"
    assert "$values.A.Value | humanizeDuration" in rules["ModelwardenLagHigh"]["annotations"]["summary"]
    labels_only = msgspec.structs.replace(CONFIG, notify="labels", runbooks_url="https://wiki/r/")
    for group in alert_groups(load_rule_groups(), labels_only):
        assert int(group["interval"]) % 10 == 0, "Grafana evaluates every 10 s"
        for rule in group["rules"]:
            assert "notification_settings" not in rule
            assert rule["annotations"]["runbook_url"] == f"https://wiki/r/{rule['title']}.md"


def test_differences_see_through_what_a_server_adds() -> None:
    assert not list(differences({"for": "1m", "keep": "0s"}, {"for": "1m0s", "id": 3}))
    assert list(differences({"a": [1, 2]}, {"a": [1]})) == ["$.a is [1], not [1, 2]"]
    assert list(differences({"a": {"b": "x"}}, {"a": {}})) == ["$.a.b is missing"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prometheus_url: x\nroutes: [{to: nobody}]", r"routes\[0\]\.to: there is no contact point 'nobody'"),
        ("prometheus_url: x\nrunbook_url: y", "runbook_url"),
        (
            "prometheus_url: x\ncontact_points: [{name: p, type: slack, settings: {url: '${NO_SUCH}'}}]",
            "contact point p: the variable NO_SUCH is not set",
        ),
        (
            "prometheus_url: x\ncontact_points: [{name: p, type: pager, settings: {}}]",
            r"contact_points\[0\]\.type",
        ),
    ],
)
def test_a_config_is_read_strictly(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "oncall.yaml"
    file.write_text(text)
    with pytest.raises(FileFormatError, match=said):
        load_config(file, {})


@pytest.mark.parametrize(
    ("matchers", "hidden"),
    [
        (["service=modelwarden"], "ModelwardenAuditChainBroken"),
        (['alertname=~"Modelwarden.*"'], "ModelwardenAuditChainBroken"),
        (["alertname=ModelwardenCanaryMissed", "model=digits"], "ModelwardenCanaryMissed"),
        (["severity!=ticket", "area=security"], "ModelwardenAuditChainBroken"),
        (["key_ref=~k.*"], "ModelwardenKeyExtraction"),
        (["severity=heartbeat"], "ModelwardenWatchdog"),
        (["alertname=~.*"], "names nothing"),
        (["alertname!=X"], "names nothing"),
        (["alertname"], "no operator"),
        (["alertname=~["], "the pattern is wrong"),
    ],
)
def test_what_must_not_be_hidden_cannot_be(grafana: GrafanaDouble, matchers: list[str], hidden: str) -> None:
    done = run("silence", *matchers, "--minutes", "5", "--by", "ana", "--comment", "c", url=grafana.url)
    assert done.exit_code == 1
    assert hidden in done.stderr
    assert not grafana.silences


def test_a_load_test_is_silenced_and_marked(grafana: GrafanaDouble) -> None:
    words = ("--load-test", "--minutes", "60", "--by", "ana", "--comment", "LT-12 <b>", "-o", "json")
    done = run("silence", *words, url=grafana.url)
    assert done.exit_code == 0, done.output
    assert [body["id"] for body in json.loads(done.stdout)] == ["s1", "s2"]
    assert len(grafana.silences) == 2
    (mark,) = grafana.annotations
    assert mark["timeEnd"] - mark["time"] == 75 * 60_000
    assert "<b>" not in mark["text"]
    assert grafana.violations == []
    for matchers in silences.LOAD_TEST:
        silences.check_silence(matchers, alert_labels())


def test_on_a_live_server(live_grafana: str) -> None:
    for word in ("plan", "apply", "verify"):
        done = CliRunner().invoke(main, ["grafana", word, "--url", live_grafana])
        assert done.exit_code == 0, done.output
