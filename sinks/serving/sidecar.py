"""The sidecar: what the middleware does, over HTTP, for proxies and for servers in any language.

    /check/...   Envoy's ext_authz, HTTP service: the proxy repeats the request's method, path and headers
                 here. 200 lets it through; any other status and body go to the caller as they are
                 (Envoy, envoy.extensions.filters.http.ext_authz.v3.HttpService).
    /auth        nginx's auth_request, which knows only 2xx, 401 and 403: 204 or 403, and what the caller
                 should get in `X-Modelwarden-Status` (ngx_http_auth_request_module).
    /observe     POST: one call's inputs and answer, under the caller's own key header; returns the answer to
                 give. Key and inputs go no further than this process.
    /events      POST: finished events (deploy/schemas/serving-event.v1.json), one or an array or one a line.
    /livez /readyz /metrics

Listens on loopback: whoever reaches it can emit events. Nothing that a request holds is logged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from sinks.metrics.instruments import Instruments
from sinks.records import ServingEvent
from sinks.serving.backlog import RUNGS
from sinks.serving.metrics import export
from sinks.serving.warden import Warden

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sinks.serving.warden import Call, Denial

MAX_BODY_BYTES = 4 * 1024 * 1024
DEFAULT_PORT = 9470
TENANT_HEADER = "x-modelwarden-tenant"
"""Set it in the proxy, and drop it from what callers send."""
VERIFIED_HEADER = "x-modelwarden-verified"
"""Set to 1 by the proxy for a caller who has passed the challenge; drop it from what callers send."""

WARDEN = web.AppKey("warden", Warden)
INSTRUMENTS = web.AppKey("instruments", Instruments)


class _Observed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    inputs: list[Any] | str | None = None
    """Numbers, nested as the model takes them; a text is not sketched."""
    probabilities: list[float] | None = None
    fields: dict[str, Any] = {}
    """Other fields of `ServingEvent`, by their Python names: plan, prompt_tokens and so on."""


def api_key(headers: Mapping[str, str]) -> str | None:
    """Return a request's API key: `Authorization: Bearer KEY`, else `X-API-Key: KEY`."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and credentials.strip():
        return credentials.strip()
    return headers.get("x-api-key", "").strip() or None


def make_sidecar(warden: Warden) -> web.Application:
    """Return the application; it starts and stops the warden."""
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app[WARDEN] = warden
    app[INSTRUMENTS] = Instruments("serving")
    app.router.add_route("*", "/check{path:.*}", _check)
    app.router.add_route("*", "/auth", _auth)
    app.router.add_post("/observe", _observe)
    app.router.add_post("/events", _events)
    app.router.add_get("/livez", _live)
    app.router.add_get("/readyz", _ready)
    app.router.add_get("/metrics", _metrics)
    app.on_startup.append(_start)
    app.on_cleanup.append(_stop)
    return app


async def _start(app: web.Application) -> None:
    app[WARDEN].start()


async def _stop(app: web.Application) -> None:
    app[WARDEN].stop()


def _begin(request: web.Request) -> Call | None:
    """Look the caller's key up; None without one: refusing that is the server's own business."""
    key = api_key(request.headers)
    if key is None:
        return None
    verified = request.headers.get(VERIFIED_HEADER) == "1"
    return request.app[WARDEN].begin(key, request.headers.get(TENANT_HEADER), is_verified=verified)


def _told(call: Call) -> dict[str, str]:
    """Say in headers what a server may want to know, or must do itself."""
    return {"x-modelwarden-key": call.key, "x-modelwarden-actions": ", ".join(call.actions)}


def _refusal(denial: Denial) -> dict[str, str]:
    told = {"x-modelwarden-error": denial.kind, "x-modelwarden-reference": denial.command_id or ""}
    if denial.retry_after_s is not None:
        told["retry-after"] = str(denial.retry_after_s)
    return told


async def _check(request: web.Request) -> web.Response:
    call = _begin(request)
    if call is None:
        return web.Response()
    if call.denial is None:
        return web.Response(headers=_told(call))
    body = call.denial.body(request.app[WARDEN].settings.contact)
    return web.Response(
        status=call.denial.status,
        body=body,
        content_type="application/json",
        headers=_refusal(call.denial),
    )


async def _auth(request: web.Request) -> web.Response:
    call = _begin(request)
    if call is None:
        return web.Response(status=204)
    if call.denial is None:
        return web.Response(status=204, headers=_told(call))
    return web.Response(
        status=403, headers=_refusal(call.denial) | {"x-modelwarden-status": str(call.denial.status)}
    )


async def _observe(request: web.Request) -> web.Response:
    warden = request.app[WARDEN]
    key = api_key(request.headers)
    if key is None:
        return _wrong(401, "the key of the observed call is missing: repeat its Authorization or X-API-Key")
    try:
        observed = msgspec.json.decode(await request.read(), type=_Observed)
    except (msgspec.MsgspecError, UnicodeError):
        return _wrong(400, "the body is not {inputs, probabilities, fields}")
    call = warden.resume(key, request.headers.get(TENANT_HEADER))
    answer = call.observe(inputs=observed.inputs, probabilities=observed.probabilities, **observed.fields)
    told = {"probabilities": None if answer is None else list(map(float, answer))}
    return web.Response(body=msgspec.json.encode(told), content_type="application/json")


async def _events(request: web.Request) -> web.Response:
    body = await request.read()
    accepted = refused = dropped = 0
    for line in _lines(body):
        try:
            event = msgspec.json.decode(line, type=ServingEvent)
        except (msgspec.MsgspecError, UnicodeError):
            refused += 1
            continue
        if request.app[WARDEN].events.put(event):
            accepted += 1
        else:
            dropped += 1
    told = {
        "accepted": accepted,
        "refused": refused,
        "dropped": dropped,
        "left_out": RUNGS[request.app[WARDEN].events.backlog.level],
    }
    status = 400 if refused and not accepted else 503 if dropped else 202
    return web.Response(status=status, body=msgspec.json.encode(told), content_type="application/json")


def _lines(body: bytes) -> list[bytes | msgspec.Raw]:
    """Cut a body into events: an array, or one a line."""
    if body.lstrip()[:1] == b"[":
        try:
            return list(msgspec.json.decode(body, type=list[msgspec.Raw]))
        except (msgspec.MsgspecError, UnicodeError):
            return [b""]  # one event that is refused
    return [line for line in body.splitlines() if line.strip()]


def _wrong(status: int, message: str) -> web.Response:
    told = {"error": {"type": "invalid_request", "message": message}}
    return web.Response(status=status, body=msgspec.json.encode(told), content_type="application/json")


async def _live(_request: web.Request) -> web.Response:
    return web.Response(text="live\n")


async def _ready(request: web.Request) -> web.Response:
    """Say no until the commands have been read once, and while Kafka does not answer."""
    enforcer = request.app[WARDEN].enforcer
    if not enforcer.is_ready:
        return web.Response(status=503, text="the commands topic has not been read yet\n")
    if enforcer.is_stale:
        return web.Response(status=503, text="Kafka does not answer; commands may be out of date\n")
    return web.Response(text="ready\n")


async def _metrics(request: web.Request) -> web.Response:
    return web.Response(
        body=export(request.app[WARDEN], request.app[INSTRUMENTS]),
        headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"},
    )


def run_sidecar(warden: Warden, host: str, port: int) -> None:
    """Serve until stopped by SIGINT or SIGTERM. Access is not logged: a path may hold a key."""
    web.run_app(make_sidecar(warden), host=host, port=port, access_log=None, print=None)
