"""Silences for load tests and maintenance; some alerts can never be silenced from here.

Silencing `service="modelwarden"` would hide a real theft during a load test: keys of a load test have
references of their own (`k65534-...`), and those can be silenced.
"""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Any

import msgspec
import requests

from sinks.errors import ModelwardenError
from sinks.serving.keyref import LOAD_TEST_EPOCH

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sinks.grafana.client import GrafanaClient

NEVER_SILENCED = (
    "ModelwardenAuditChainBroken",
    "ModelwardenBreakerTripped",
    "ModelwardenCanaryMissed",
    "ModelwardenKeyExtraction",
    "ModelwardenWatchdog",
)
MAX_HOURS = 24
_UNKNOWN_LABELS = frozenset({"model", "instance", "job", "grafana_folder"})
"""Labels of which an alert's value is not known beforehand."""
_MATCHER = re.compile(r'\s*([A-Za-z_]\w*)\s*(=~|!~|!=|=)\s*"?([^"]*)"?\s*')
_FORM = 'Write name=value, name!=value, name=~"pattern" or name!~"pattern"'


class SilenceError(ModelwardenError):
    """A silence is not well formed, or would hide what must not be hidden."""


class Matcher(msgspec.Struct, frozen=True, rename="camel"):
    """One condition of a silence, as Alertmanager's API has it."""

    name: str
    value: str
    is_regex: bool
    is_equal: bool

    def matches(self, value: str) -> bool:
        """Tell whether a label's value fulfils it."""
        found = re.fullmatch(self.value, value) is not None if self.is_regex else value == self.value
        return found == self.is_equal


LOAD_TEST: tuple[tuple[Matcher, ...], ...] = (
    (Matcher("key_ref", f"k{LOAD_TEST_EPOCH}-.*", is_regex=True, is_equal=True),),
    (
        Matcher(
            "alertname",
            "Modelwarden(Lag.+|DetectionSlow|AlertSurge|FlaggedKeysLeftOut)",
            is_regex=True,
            is_equal=True,
        ),
    ),
)
"""What a load test sets off by itself; each is a silence."""


def parse_matcher(text: str) -> Matcher:
    """Read `name=value` and the like. Raises SilenceError."""
    found = _MATCHER.fullmatch(text)
    if found is None:
        raise SilenceError(f"matcher {text!r}", "it has no operator", _FORM)
    name, operator, value = found.groups()
    is_regex = operator.endswith("~")
    if is_regex:
        try:
            re.compile(value)
        except re.error as error:
            raise SilenceError(f"matcher {text!r}", f"the pattern is wrong ({error})", _FORM) from error
    return Matcher(name, value, is_regex, not operator.startswith("!"))


def check_silence(matchers: Sequence[Matcher], alerts: Mapping[str, Mapping[str, str]]) -> None:
    """Refuse a silence that could hide what must not be hidden.

    Parameters
    ----------
    matchers : sequence of Matcher
        All must hold for an alert to be silenced.
    alerts : mapping of str to mapping
        Labels by alert name, from the rules.

    Raises
    ------
    SilenceError
    """
    if not any(matcher.is_equal and matcher.value not in {"", ".*", ".+"} for matcher in matchers):
        raise SilenceError("silence", "it names nothing in particular", "Name an alert or a label's value")
    for name in NEVER_SILENCED:
        labels = {**alerts.get(name, {}), "alertname": name}
        if all(_could_match(matcher, labels) for matcher in matchers):
            raise SilenceError(
                "silence", f"it would hide {name}", "Name the alerts to be silenced, without that one"
            )


def _could_match(matcher: Matcher, labels: Mapping[str, str]) -> bool:
    if matcher.name in _UNKNOWN_LABELS:
        return True
    if matcher.name == "key_ref" and labels["alertname"] == "ModelwardenKeyExtraction":
        # A customer's key has an epoch below the load test's; anything that could match one is refused.
        return matcher != LOAD_TEST[0][0]
    return matcher.matches(labels.get(matcher.name, ""))


def silence_body(
    matchers: Iterable[Matcher], *, starts_at: str, ends_at: str, by: str, comment: str
) -> dict[str, Any]:
    """Return a silence as the v2 API of Alertmanager, and Grafana's, takes it. Times are RFC 3339."""
    return {
        "matchers": [msgspec.to_builtins(matcher) for matcher in matchers],
        "startsAt": starts_at,
        "endsAt": ends_at,
        "createdBy": by,
        "comment": comment,
    }


def post_silence(client: GrafanaClient, body: Mapping[str, Any]) -> str:
    """Create it in Grafana and return its id. Raises GrafanaError."""
    answer = client.call("POST", "/alertmanager/grafana/api/v2/silences", body)
    return str((answer or {}).get("silenceID", ""))


def mark_window(client: GrafanaClient, start_ms: int, end_ms: int, comment: str) -> None:
    """Show the silenced time on the dashboards. Raises GrafanaError."""
    body = {
        "time": start_ms,
        "timeEnd": end_ms,
        "tags": ["modelwarden", "kind:policy", "silence"],
        "text": html.escape(f"Silence: {comment}")[:200],
    }
    client.call("POST", "/annotations", body)


def post_to_alertmanager(url: str, body: Mapping[str, Any]) -> None:
    """Create it in an Alertmanager too. Raises SilenceError."""
    try:
        requests.post(f"{url.rstrip('/')}/api/v2/silences", json=body, timeout=10).raise_for_status()
    except requests.RequestException as error:
        do = "Silence it there by hand (amtool silence add); Grafana's silence stands"
        raise SilenceError(f"Alertmanager at {url}", type(error).__name__, do) from error
