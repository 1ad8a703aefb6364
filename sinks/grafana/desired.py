"""What should stand on a Grafana server: one item each, with where it is read and how it is written."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import msgspec

from sinks.grafana.alerting import DATA_SOURCE_UID, FOLDER_UID, alert_groups, load_rule_groups
from sinks.grafana.client import fill, query

if TYPE_CHECKING:
    from sinks.grafana.config import ContactPoint, OncallConfig

FOLDER_TITLE = "Modelwarden"
DASHBOARDS = ("modelwarden-health", "modelwarden-security", "modelwarden-key")


@dataclass(frozen=True)
class Item:
    """One object on the server."""

    kind: str
    name: str
    read: str
    """Path that tells what is there."""
    create: tuple[str, str]
    """Method and path."""
    update: tuple[str, str]
    body: dict[str, Any]
    """What is written."""
    expected: dict[str, Any]
    """What must be read back: these fields, with these values; others may be there."""
    first_body: dict[str, Any] | None = None
    """What is written to make it, where that is not the same."""


def desired_items(config: OncallConfig) -> list[Item]:
    """Return everything, in the order in which it must be made."""
    groups = alert_groups(load_rule_groups(), config)
    return [
        _data_source(config),
        _folder(),
        *map(_dashboard, DASHBOARDS),
        *map(_contact_point, config.contact_points),
        *map(_rule_group, groups),
    ]


def load_dashboard(uid: str) -> dict[str, Any]:
    """Read a dashboard that comes with the program (`deploy/grafana/dashboards`)."""
    text = files("deploy").joinpath(f"grafana/dashboards/{uid}.json").read_bytes()
    dashboard: dict[str, Any] = msgspec.json.decode(text)
    return dashboard


def _data_source(config: OncallConfig) -> Item:
    body = {
        "uid": DATA_SOURCE_UID,
        "name": DATA_SOURCE_UID,
        "type": "prometheus",
        "access": "proxy",
        "url": config.prometheus_url,
        "jsonData": {"httpMethod": "POST", "timeInterval": "15s"},
    }
    path = fill("/datasources/uid/{}", DATA_SOURCE_UID)
    return Item("data source", DATA_SOURCE_UID, path, ("POST", "/datasources"), ("PUT", path), body, body)


def _folder() -> Item:
    path = fill("/folders/{}", FOLDER_UID)
    body = {"uid": FOLDER_UID, "title": FOLDER_TITLE}
    return Item(
        "folder",
        FOLDER_UID,
        path,
        ("POST", "/folders"),
        ("PUT", path),
        {"title": FOLDER_TITLE, "overwrite": True},
        expected=body,
        first_body=body,
    )


def _dashboard(uid: str) -> Item:
    dashboard = load_dashboard(uid)
    save = ("POST", "/dashboards/db")
    body = {
        "dashboard": {**dashboard, "id": None},
        "folderUid": FOLDER_UID,
        "overwrite": True,
        "message": "modelwarden grafana apply",
    }
    kept = {
        name: value for name, value in dashboard.items() if name not in {"id", "version", "schemaVersion"}
    }
    expected = {
        "dashboard": kept,
        "meta": {"folderUid": FOLDER_UID},
    }  # old servers ignore folderUid in silence
    return Item("dashboard", uid, fill("/dashboards/uid/{}", uid), save, save, body, expected)


def _contact_point(point: ContactPoint) -> Item:
    uid = "mw-" + blake2b(point.name.encode(), digest_size=12).hexdigest()
    body = {"uid": uid, "name": point.name, "type": point.type, "settings": point.settings}
    return Item(
        "contact point",
        point.name,
        query("/v1/provisioning/contact-points", ("name", point.name)),
        ("POST", "/v1/provisioning/contact-points"),
        ("PUT", fill("/v1/provisioning/contact-points/{}", uid)),
        body,
        {name: body[name] for name in ("uid", "name", "type")},  # settings come back with secrets taken out
    )


def _rule_group(group: dict[str, Any]) -> Item:
    path = fill("/v1/provisioning/folder/{}/rule-groups/{}", FOLDER_UID, group["title"])
    return Item("alert rules", group["title"], path, ("PUT", path), ("PUT", path), group, group)
