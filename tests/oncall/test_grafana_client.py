"""Whatever a server, or what stands before it, answers: a clear error with a cause, or the answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from sinks.errors import ModelwardenError
from sinks.grafana.client import GrafanaClient, fill, query
from sinks.grafana.errors import GrafanaError

if TYPE_CHECKING:
    from collections.abc import Callable

    from grafana_double import GrafanaDouble


def answer(
    status: int, text: str = "", kind: str = "application/json", **headers: str
) -> Callable[[web.Request], web.Response]:
    return lambda _: web.Response(status=status, text=text, content_type=kind, headers=headers)


@pytest.mark.parametrize(("method", "status"), [("DELETE", 204), ("PUT", 202), ("POST", 202), ("GET", 200)])
def test_an_empty_success_is_a_success(
    client: GrafanaClient, misbehaving: GrafanaDouble, method: str, status: int
) -> None:
    misbehaving.script = [answer(status)]
    assert client.call(method, "/v1/provisioning/alert-rules/x") is None


@pytest.mark.parametrize(
    ("status", "text", "kind", "cause", "said"),
    [
        (502, "upstream message: connection refused", "text/plain", "unavailable", "upstream message"),
        (500, '"a JSON string with message"', "application/json", "unavailable", "a JSON string"),
        (500, "[]", "application/json", "unavailable", "status 500"),
        (429, '{"message": "slow down"}', "application/json", "throttled", "slow down"),
        (401, '{"message": "Invalid API key"}', "application/json", "auth", "Invalid API key"),
        (403, "", "application/json", "auth", "no reason given"),
        (408, "", "text/plain", "throttled", "status 408"),
        (400, '{"message": "bad\\nrequest"}', "application/json", "refused", "bad request"),
        (200, "<html>login</html>", "text/html", "unavailable", "no JSON: a proxy or a login page"),
    ],
)
def test_a_failure_has_a_cause_and_says_why(  # noqa: PLR0917 - a table's columns
    client: GrafanaClient,
    misbehaving: GrafanaDouble,
    status: int,
    text: str,
    kind: str,
    cause: str,
    said: str,
) -> None:
    misbehaving.script = [answer(status, text, kind)]
    with pytest.raises(GrafanaError) as caught:
        client.call("POST", "/annotations", {"text": "t"})
    assert caught.value.cause == cause
    assert caught.value.status == status
    assert said in str(caught.value)
    assert len(misbehaving.calls) == 1, "a POST is never sent twice"


def test_retry_after_is_kept(client: GrafanaClient, misbehaving: GrafanaDouble) -> None:
    misbehaving.script = [answer(429, "{}", **{"Retry-After": "7"})]
    with pytest.raises(GrafanaError) as caught:
        client.call("GET", "/health")
    assert caught.value.retry_after_s == 7


def test_401_then_ok_goes_on_with_the_same_client(client: GrafanaClient, misbehaving: GrafanaDouble) -> None:
    misbehaving.script = [answer(401, "{}")]
    with pytest.raises(GrafanaError):
        client.check_version()
    assert client.check_version() == "12.4.0"


def test_a_get_is_tried_again_after_a_502(client: GrafanaClient, misbehaving: GrafanaDouble) -> None:
    misbehaving.script = [answer(502, "x", "text/plain"), answer(503, "x", "text/plain")]
    assert client.check_version() == "12.4.0"
    assert len(misbehaving.calls) == 3


def test_a_slow_server_and_none_at_all_are_unavailable(
    client: GrafanaClient, misbehaving: GrafanaDouble
) -> None:
    misbehaving.delay_s = 2.0
    with pytest.raises(GrafanaError, match="no answer in time") as caught:
        client.call("POST", "/annotations", {"text": "t"})
    assert caught.value.cause == "unavailable"
    nobody = GrafanaClient("http://127.0.0.1:1", "token")
    with pytest.raises(GrafanaError, match="ConnectionError"):
        nobody.call("POST", "/annotations", {"text": "t"})
    nobody.close()


def test_a_redirect_to_a_login_page_is_no_success(client: GrafanaClient, misbehaving: GrafanaDouble) -> None:
    misbehaving.script = [answer(302, Location="/login")]
    with pytest.raises(GrafanaError, match="redirected"):
        client.call("GET", "/folders/x")


def test_no_error_repeats_the_token(misbehaving: GrafanaDouble) -> None:
    client = GrafanaClient(misbehaving.url, "glsa_very_secret")
    misbehaving.script = [answer(401, json.dumps({"message": "no"}))]
    with pytest.raises(GrafanaError) as caught:
        client.call("GET", "/health")
    assert "secret" not in str(caught.value)
    client.close()


def test_a_path_below_another_is_kept(misbehaving: GrafanaDouble) -> None:
    misbehaving.always = answer(200, "{}")
    client = GrafanaClient(f"{misbehaving.url}/grafana/", "token")
    client.call("GET", "/health")
    assert misbehaving.calls == [("GET", "/grafana/api/health")]
    client.close()
    with pytest.raises(ModelwardenError, match="is no URL"):
        GrafanaClient("grafana:3000", "token")


@given(st.text(min_size=1))
def test_no_text_changes_the_meaning_of_a_path(text: str) -> None:
    path = query(fill("/folders/{}/x", text), ("tags", text))
    assert path.count("?") == 1
    assert path.count("/") == 3
    assert not set("&# ") & set(path)
    assert path.count("=") == 1
