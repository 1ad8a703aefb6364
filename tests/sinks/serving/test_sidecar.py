"""The sidecar: Envoy's and nginx's contracts, events from any language, health and metrics.

Envoy, "External Authorization", envoy.extensions.filters.http.ext_authz.v3: `HttpService` (a 200 lets the
request through; any other status, with its body, is what the client gets) and `AuthorizationResponse` (which
headers of the answer go on to the upstream or to the client). nginx: ngx_http_auth_request_module (2xx lets
through, 401 and 403 deny, anything else is an error).
"""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import yaml
from aiohttp import ClientSession, web
from aiohttp.test_utils import BaseTestServer, TestClient, TestServer
from signed import make_command

from sinks.serving.clock import now_ms
from sinks.serving.event import encode_event
from sinks.serving.settings import ServingSettings
from sinks.serving.sidecar import api_key, make_sidecar
from sinks.serving.warden import Warden
from sinks.signing import generate_key, load_signer
from streams.localkafka import free_port

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sinks.records import ServingEvent

API_KEY = "sk-customer-0000000000000001"
AUTHORIZED = {"authorization": f"Bearer {API_KEY}"}
EXAMPLES = Path(__file__).parents[3] / "deploy" / "examples"
HOUR_MS = 3_600_000


@pytest.fixture
def warden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warden:
    """One that never connects."""
    (tmp_path / "secret").write_text("0123456789abcdef" * 4)
    generate_key(tmp_path / "signing.pem")
    settings = ServingSettings(
        model="digits",
        kafka="127.0.0.1:1",
        key_secret_file=tmp_path / "secret",
        trusted_keys=tmp_path / "signing.pem.pub",
    )
    made = Warden(settings)
    monkeypatch.setattr(made, "start", lambda: None)
    monkeypatch.setattr(made, "stop", lambda: None)

    def put(event: ServingEvent) -> bool:
        made.events.backlog.waiting.append(event)
        return True

    monkeypatch.setattr(made.events, "put", put)
    return made


def command(warden: Warden, **fields: Any) -> None:
    now = now_ms()
    usual = {"key": warden.reference(API_KEY), "issued_ms": now, "expires_ms": now + HOUR_MS}
    signer = load_signer(warden.settings.trusted_keys.with_name("signing.pem"))
    value = msgspec.json.encode(signer.sign(make_command(**(usual | fields))))
    assert warden.enforcer.table.apply(value, now).outcome == "enforced"


def run(warden: Warden, test: Callable[[TestClient[Any, Any]], Awaitable[None]]) -> None:
    async def main() -> None:
        async with TestClient(TestServer(make_sidecar(warden))) as client:
            await test(client)

    asyncio.run(main())


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
def test_envoy_is_told_200_for_a_call_that_may_pass_and_what_the_upstream_should_know(
    warden: Warden, method: str
) -> None:
    command(warden, action="coarsen", parameters={"decimals": 1.0})

    async def test(client: TestClient[Any, Any]) -> None:
        answer = await client.request(method, "/check/v1/predict?x=1", headers=AUTHORIZED)
        assert answer.status == 200
        assert answer.headers["x-modelwarden-key"] == warden.reference(API_KEY)
        assert answer.headers["x-modelwarden-actions"] == "coarsen"
        assert (await client.request(method, "/check/v1/predict")).status == 200, "no key: not our business"

    run(warden, test)


def test_envoy_gets_the_status_and_body_that_the_caller_shall_have(warden: Warden) -> None:
    async def test(client: TestClient[Any, Any]) -> None:
        for sequence, action, status, kind in (
            (1, "suspend", 403, "key_suspended"),
            (2, "revoke", 403, "key_revoked"),
            (3, "challenge", 403, "verification_required"),
        ):
            command(warden, action=action, sequence=sequence)
            answer = await client.post("/check/v1/predict", headers=AUTHORIZED)
            assert (answer.status, (await answer.json())["error"]["type"]) == (status, kind)
            assert answer.headers["x-modelwarden-error"] == kind
        verified = await client.get("/check/", headers=AUTHORIZED | {"x-modelwarden-verified": "1"})
        assert verified.status == 200
        throttle = {"requests_per_minute": 30.0}
        command(warden, action="throttle", sequence=4, parameters=throttle)
        statuses = [(await client.get("/check/", headers=AUTHORIZED)).status for _ in range(2)]
        assert statuses == [200, 429]
        assert (await client.get("/check/", headers=AUTHORIZED)).headers["retry-after"] == "2"

    run(warden, test)


def test_the_envoy_example_asks_as_the_sidecar_answers() -> None:
    """Names in the example against the contract's: path prefix, and the headers that are let through."""
    config = yaml.safe_load((EXAMPLES / "envoy" / "envoy.yaml").read_text())
    [listener] = config["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    authz, router = manager["http_filters"]
    assert authz["name"] == "envoy.filters.http.ext_authz"
    assert router["name"] == "envoy.filters.http.router", "the filter that ends the chain stands last"
    service = authz["typed_config"]["http_service"]
    assert service["path_prefix"] == "/check"
    assert service["server_uri"]["cluster"] in {c["name"] for c in config["static_resources"]["clusters"]}
    removed = manager["route_config"]["virtual_hosts"][0]["request_headers_to_remove"]
    assert {"x-modelwarden-tenant", "x-modelwarden-verified"} <= set(removed)
    sent = {one["exact"] for one in authz["typed_config"]["allowed_headers"]["patterns"]}
    assert "x-api-key" in sent, "authorization is sent by the contract itself"
    told = service["authorization_response"]
    assert {"prefix": "x-modelwarden-"} in told["allowed_upstream_headers"]["patterns"]
    assert {"exact": "retry-after"} in told["allowed_client_headers"]["patterns"]


def test_calls_observed_and_events_sent_from_any_language_reach_the_topic(warden: Warden) -> None:
    command(warden, action="coarsen", parameters={"label_only": 1.0})

    async def test(client: TestClient[Any, Any]) -> None:
        body = {"inputs": [[0.1, 0.2], [0.3, 0.4]], "probabilities": [0.2, 0.8], "fields": {"plan": "pro"}}
        answer = await client.post("/observe", json=body, headers=AUTHORIZED)
        assert await answer.json() == {"probabilities": [0.0, 1.0]}
        assert (await client.post("/observe", json=body)).status == 401
        assert (await client.post("/observe", data=b"{", headers=AUTHORIZED)).status == 400
        warden.observer.work()
        event = encode_event(warden.events.backlog.waiting[0])
        for sent, accepted, refused, status in (
            (event, 1, 0, 202),
            (event + b"\n\n" + event + b"\nnonsense", 2, 1, 202),
            (b"[" + event + b"," + event + b"]", 2, 0, 202),
            (b"[nonsense", 0, 1, 400),
            (b'{"key":"sk-raw"}', 0, 1, 400),
        ):
            told = await client.post("/events", data=sent)
            counts = await told.json()
            assert (counts["accepted"], counts["refused"], told.status) == (accepted, refused, status)
            assert counts["left_out"] == []

    run(warden, test)
    warden.observer.work()
    events = list(warden.events.backlog.waiting)
    assert {(one.key, one.plan, one.predicted_class) for one in events} == {
        (warden.reference(API_KEY), "pro", 1)
    }
    assert len(events) == 6


def test_health_and_metrics(warden: Warden) -> None:
    command(warden)

    async def test(client: TestClient[Any, Any]) -> None:
        await client.get("/check/", headers=AUTHORIZED)
        warden.enforcer.table.apply(b"nonsense", now_ms())
        assert (await client.get("/livez")).status == 200
        assert (await client.get("/readyz")).status == 503
        text = await (await client.get("/metrics")).text()
        assert 'modelwarden_enforcer_calls_total{action="suspend"} 1.0' in text
        assert 'modelwarden_enforcer_commands_held{action="suspend"} 1.0' in text
        assert warden.reference(API_KEY) not in text

    run(warden, test)


def test_the_key_is_read_like_the_middleware_reads_it() -> None:
    assert api_key({"authorization": "Bearer  a "}) == "a"
    assert api_key({"authorization": "bearer a"}) == "a"
    assert api_key({"authorization": "Basic a", "x-api-key": "b"}) == "b"
    assert api_key({"authorization": "Bearer "}) is None


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed (`make packages`)")
def test_the_same_checks_behind_a_real_nginx(warden: Warden, tmp_path: Path) -> None:
    """The example's own configuration, with other ports."""

    async def served(request: web.Request) -> web.Response:
        return web.json_response({"told": request.headers.get("x-modelwarden-actions", "")})

    async def main() -> None:
        model = web.Application()
        model.router.add_route("*", "/{path:.*}", served)
        async with TestServer(model) as upstream, TestServer(make_sidecar(warden)) as sidecar:
            port = free_port()
            text = (EXAMPLES / "nginx" / "nginx.conf").read_text()
            for number, to in (("8000", upstream.port), ("9470", sidecar.port), ("8080", port)):
                assert f"127.0.0.1:{number}" in text
                text = text.replace(f"127.0.0.1:{number}", f"127.0.0.1:{to}")
            (tmp_path / "nginx.conf").write_text(text)
            (tmp_path / "tmp").mkdir()
            nginx = await asyncio.create_subprocess_exec("nginx", "-p", str(tmp_path), "-c", "nginx.conf")
            try:
                async with ClientSession(f"http://127.0.0.1:{port}") as client:
                    await behind_nginx(client, warden, sidecar)
            finally:
                nginx.terminate()
                await nginx.wait()

    asyncio.run(main())


async def behind_nginx(client: ClientSession, warden: Warden, sidecar: BaseTestServer) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            answer = await client.post("/v1/predict", headers=AUTHORIZED, data=b"x" * 1000)
            break
        except OSError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
    assert (answer.status, await answer.json()) == (200, {"told": ""})
    assert (await client.get("/v1/predict")).status == 200, "no key: not our business"
    command(warden, action="coarsen", sequence=1, parameters={"decimals": 1.0})
    assert await (await client.get("/", headers=AUTHORIZED)).json() == {"told": "coarsen"}
    forged = AUTHORIZED | {"x-modelwarden-actions": "none"}
    assert await (await client.get("/", headers=forged)).json() == {"told": "coarsen"}
    for sequence, action, kind in (
        (2, "suspend", "key_suspended"),
        (3, "challenge", "verification_required"),
    ):
        command(warden, action=action, sequence=sequence)
        answer = await client.post("/v1/predict", headers=AUTHORIZED | {"x-modelwarden-verified": "1"})
        assert (answer.status, (await answer.json())["error"]["type"]) == (403, kind)
    assert (await client.get("/", headers={"authorization": "Bearer sk-another"})).status == 200
    command(warden, action="throttle", sequence=4, parameters={"requests_per_minute": 30.0})
    statuses = [(await client.get("/", headers=AUTHORIZED)).status for _ in range(2)]
    assert statuses == [200, 429]
    assert (await client.get("/", headers=AUTHORIZED)).headers["retry-after"] == "2"
    await sidecar.close()
    assert (await client.get("/", headers=AUTHORIZED)).status == 200, "without the sidecar it serves on"
