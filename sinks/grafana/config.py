"""Who is told, and where: the file that `modelwarden grafana` reads, `deploy/grafana/oncall.yaml` by default.

Secrets stay out of it: `${NAME}` stands for a variable of the environment.
"""

from __future__ import annotations

import re
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from sinks.errors import FileFormatError
from sinks.yamlfile import explain_form, read_config

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Text = Annotated[str, Meta(min_length=1, max_length=190)]
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class ContactPoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Somebody to be told."""

    name: Text
    type: Literal["pagerduty", "slack", "webhook", "email", "teams", "oncall", "googlechat", "discord"]
    settings: dict[str, str]
    """As Grafana's documents say for the type."""


class Route(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which alerts go to a contact point; the first that matches counts."""

    to: Text
    severity: str | None = None
    area: str | None = None
    group_by: tuple[str, ...] = ()
    group_wait: str = "30s"
    repeat_interval: str = "4h"


class OncallConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    prometheus_url: Text
    """As Grafana's server reaches it."""
    runbooks_url: str = "deploy/runbooks/"
    """What stands before a runbook's file name."""
    notify: Literal["rules", "labels"] = "rules"
    """rules: each alert rule names its contact point, and the organisation's tree of notification policies is
    never touched. labels: rules only carry labels, and that tree decides."""
    contact_points: tuple[ContactPoint, ...] = ()
    routes: tuple[Route, ...] = ()

    def notification_settings(self, labels: Mapping[str, str]) -> dict[str, Any] | None:
        """Return a rule's own settings; None where the tree decides."""
        if self.notify == "labels":
            return None
        for route in self.routes:
            if route.severity in {None, labels["severity"]} and route.area in {None, labels["area"]}:
                return {
                    "receiver": route.to,
                    "group_by": ["alertname", "grafana_folder", *route.group_by],
                    "group_wait": route.group_wait,
                    "repeat_interval": route.repeat_interval,
                }
        return None


def load_config(path: Path | None, environ: Mapping[str, str]) -> OncallConfig:
    """Read the file, or the one that comes with the program, and put the environment's secrets in.

    Raises
    ------
    FileFormatError
        If it is not valid, a route leads nowhere or a variable is not set.
    """
    if path is None:
        with as_file(files("deploy").joinpath("grafana/oncall.yaml")) as shipped:
            return load_config(shipped, environ)
    try:
        config = msgspec.convert(read_config(path), OncallConfig)
    except msgspec.ValidationError as error:
        known = [name for struct in (OncallConfig, ContactPoint, Route) for name in struct.__struct_fields__]
        raise FileFormatError(
            f"{path}", explain_form(error, known), "Correct or remove that field"
        ) from error
    names = {point.name for point in config.contact_points}
    for number, route in enumerate(config.routes):
        if route.to not in names:
            why = f"there is no contact point {route.to!r}"
            raise FileFormatError(
                f"{path}, routes[{number}].to", why, f"Write one of {', '.join(sorted(names))}"
            )
    filled = tuple(_fill(point, environ, path) for point in config.contact_points)
    return msgspec.structs.replace(config, contact_points=filled)


def _fill(point: ContactPoint, environ: Mapping[str, str], path: Path) -> ContactPoint:
    def value(match: re.Match[str]) -> str:
        if match[1] not in environ:
            where = f"{path}, contact point {point.name}"
            raise FileFormatError(where, f"the variable {match[1]} is not set", "Set it in the environment")
        return environ[match[1]]

    settings = {name: _VARIABLE.sub(value, text) for name, text in point.settings.items()}
    return msgspec.structs.replace(point, settings=settings)
