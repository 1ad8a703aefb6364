"""What stands between a server and what should stand on it; making it so; making sure.

Reads before it writes and reads back after: Grafana drops fields it does not know without a word.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from sinks.grafana.errors import GrafanaDriftError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sinks.grafana.client import GrafanaClient
    from sinks.grafana.desired import Item

_DURATION = re.compile(r"(\d+)(ms|[smhdw])")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done, or was done, for one item."""

    kind: str
    name: str
    action: Literal["create", "change", "none"]
    difference: str = ""
    """The first place that differs."""


def make_plan(client: GrafanaClient, items: Iterable[Item]) -> Iterator[Step]:
    """Compare each item with the server, writing nothing. Raises GrafanaError, GrafanaVersionError."""
    client.check_version()
    for item in items:
        yield _compare(client, item)


def apply_plan(client: GrafanaClient, items: Iterable[Item]) -> Iterator[Step]:
    """Make or change what is not as it should be, read it back, and yield what was done.

    Doing it again changes nothing. Stops at the first failure; what was written before it stays.

    Raises
    ------
    GrafanaError, GrafanaVersionError
    GrafanaDriftError
        If the server did not keep what it was told.
    """
    client.check_version()
    for item in items:
        step = _compare(client, item)
        if step.action != "none":
            method, path = item.create if step.action == "create" else item.update
            client.call(method, path, item.body if step.action == "change" else item.first_body or item.body)
            after = _compare(client, item)
            if after.action != "none":
                raise GrafanaDriftError(
                    f"Grafana, {item.kind} {item.name}",
                    f"after writing, {after.difference or 'it is not there'}",
                    "Compare that place by hand; another program may be writing it too",
                )
        yield step


def _compare(client: GrafanaClient, item: Item) -> Step:
    found = client.find(item.read)
    if isinstance(found, list):  # contact points are searched by name
        found = next((one for one in found if one.get("uid") == item.expected["uid"]), None)
    if found is None:
        return Step(kind=item.kind, name=item.name, action="create")
    difference = next(differences(item.expected, found), "")
    return Step(
        kind=item.kind, name=item.name, action="change" if difference else "none", difference=difference
    )


def differences(wanted: Any, found: Any, place: str = "$") -> Iterator[str]:
    """Yield where `found` lacks, or has otherwise, what is wanted; what it has beside that may be there."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for name, value in wanted.items():
            if name not in found and value not in (None, "", "0s", [], {}, False, 0):
                yield f"{place}.{name} is missing"
            elif name in found:
                yield from differences(value, found[name], f"{place}.{name}")
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        for number, (one, other) in enumerate(zip(wanted, found, strict=True)):
            yield from differences(one, other, f"{place}[{number}]")
    elif wanted != found and not _same_duration(wanted, found):
        yield f"{place} is {_short(found)}, not {_short(wanted)}"


def _same_duration(wanted: Any, found: Any) -> bool:
    """Tell whether both are the same time: `1m` comes back as `1m0s`."""
    seconds = [_seconds(value) for value in (wanted, found)]
    return seconds[0] is not None and seconds[0] == seconds[1]


def _seconds(text: Any) -> float | None:
    if not isinstance(text, str) or not re.fullmatch(rf"({_DURATION.pattern})+", text):
        return None
    return sum(int(number) * _SECONDS[unit] for number, unit in _DURATION.findall(text))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
