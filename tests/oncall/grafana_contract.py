"""Grafana's own API documents (Swagger 2.0) as a checker of calls: method, path, query, body.

The documents stand beside the checkout (../shared/grafana; Grafana is AGPL, so they are no part of this).
Where they are known to say otherwise than the server does, `DEVIATIONS` says so, each with its reason.
"""

from __future__ import annotations

import copy
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import jsonschema

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER = Path(
    os.environ.get("GRAFANA_DOCUMENTS") or Path(__file__).resolve().parents[3] / "shared" / "grafana"
)
DOCUMENTS = (FOLDER / "api-merged.json", FOLDER / "alerting-post.json")

DEVIATIONS = {
    "duration": 'the format "duration" means Prometheus\'s (1m), not ISO 8601 (PT1M): model.ParseDuration',
    "contact type": "the list of contact point types is stale: alerting/notify accepts oncall and others",
    "null": "Go decodes null into the zero value, so it is accepted where a field is not required",
    "closed": "unknown fields are allowed there and dropped in silence; in our own bodies they are a mistake",
    "dashboard": "SaveDashboardCommand requires nothing; without a dashboard the server answers 400 or 500",
    "time range": "RelativeTimeRange is documented as a duration; the server takes seconds, from and to",
}
_DURATION = r"^(0|((\d+)w)?((\d+)d)?((\d+)h)?((\d+)m)?((\d+)s)?((\d+)ms)?)$"
_CLOSED = {
    "PostAnnotationsCmd", "PatchAnnotationsCmd", "SaveDashboardCommand", "CreateFolderCommand",
    "UpdateFolderCommand", "AddDataSourceCommand", "UpdateDataSourceCommand", "AlertRuleGroup",
    "ProvisionedAlertRule", "AlertRuleNotificationSettings", "AlertQuery", "EmbeddedContactPoint",
    "postableSilence", "matcher",
}  # fmt: skip
_MORE_CONTACT_TYPES = ["oncall", "jira", "mqtt", "sns", "webex"]


@dataclass(frozen=True)
class Operation:
    """One documented method of one path."""

    method: str
    template: str
    pattern: re.Pattern[str]
    parameters: list[dict[str, Any]]
    success: int
    """Status of a success."""


class Contract:
    """What the documents allow."""

    def __init__(self) -> None:
        self._definitions: dict[str, Any] = {}
        self.operations: list[Operation] = []
        for path in DOCUMENTS:
            self._read(json.loads(path.read_text()))
        self.operations.sort(key=lambda operation: operation.template.count("{"))
        self._deviate()

    def _read(self, document: dict[str, Any]) -> None:
        for name, definition in document["definitions"].items():
            self._definitions.setdefault(name, copy.deepcopy(definition))
        for template, methods in document["paths"].items():
            pattern = re.compile(re.sub(r"\\\{[^}]+\\\}", "([^/]+)", re.escape(template)))
            for method, operation in methods.items():
                if method in {"get", "put", "post", "delete", "patch"}:
                    parameters = methods.get("parameters", []) + operation.get("parameters", [])
                    codes = [int(code) for code in operation["responses"] if code.startswith("2")]
                    self.operations.append(
                        Operation(method.upper(), template, pattern, parameters, min(codes, default=200))
                    )

    def _deviate(self) -> None:
        for name, definition in self._definitions.items():
            properties = definition.get("properties", {})
            if name in _CLOSED:
                definition["additionalProperties"] = False
            for field, schema in properties.items():
                if schema.get("format") == "duration":
                    schema.pop("format")
                    schema["pattern"] = _DURATION
                if name == "EmbeddedContactPoint" and field == "type":
                    schema["enum"] += _MORE_CONTACT_TYPES
                if isinstance(schema.get("type"), str) and field not in definition.get("required", []):
                    schema["type"] = [schema["type"], "null"]
        self._definitions["SaveDashboardCommand"]["required"] = ["dashboard"]
        seconds = {"type": "integer", "minimum": 0}
        self._definitions["RelativeTimeRange"] = {
            "type": "object",
            "additionalProperties": False,
            "properties": {"from": seconds, "to": seconds},
        }

    def check(
        self, method: str, target: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[Operation | None, list[str]]:
        """Find the operation of a call, and everything about the call that it does not allow."""
        url = urlsplit(target)
        path = url.path.removeprefix("/api")
        found = [op for op in self.operations if op.pattern.fullmatch(path)]
        operation = next((op for op in found if op.method == method), None)
        if operation is None:
            return None, [f"{method} {path}: not in the documents"]
        known = {p["name"] for p in operation.parameters if p["in"] == "query"}
        wrong = [
            f"query parameter {n!r}"
            for n, _ in parse_qsl(url.query, keep_blank_values=True)
            if n not in known
        ]
        if "Authorization" not in headers:
            wrong.append("no Authorization")
        wrong += self._check_body(operation, body)
        return operation, [f"{method} {path}: {said}" for said in wrong]

    def _check_body(self, operation: Operation, body: bytes) -> list[str]:
        schema = next((p["schema"] for p in operation.parameters if p["in"] == "body"), None)
        if schema is None:
            return ["a body is not documented"] if body else []
        try:
            document = json.loads(body)
        except ValueError as error:
            return [f"the body is no JSON: {error}"]
        validator = jsonschema.Draft4Validator({**schema, "definitions": self._definitions})
        return [f"{error.json_path}: {error.message[:140]}" for error in validator.iter_errors(document)]
