"""The middleware in an application: refusals by name, answers changed as commanded, events told."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from fastapi import FastAPI, Request
from signed import make_command

from sinks.serving.clock import now_ms
from sinks.serving.middleware import ModelwardenMiddleware
from sinks.serving.settings import ServingSettings
from sinks.serving.warden import Warden
from sinks.signing import generate_key, load_signer

if TYPE_CHECKING:
    from pathlib import Path

    from sinks.records import ServingEvent

API_KEY = "sk-customer-0000000000000001"
ANSWER = [0.1, 0.625, 0.275]
HOUR_MS = 3_600_000


@pytest.fixture
def settings(tmp_path: Path) -> ServingSettings:
    (tmp_path / "secret").write_text("0123456789abcdef" * 4 + "\n")
    generate_key(tmp_path / "signing.pem")
    return ServingSettings(
        model="digits",
        kafka="127.0.0.1:1",
        key_secret_file=tmp_path / "secret",
        trusted_keys=tmp_path / "signing.pem.pub",
        contact="https://example.com/appeals",
    )


@pytest.fixture
def warden(settings: ServingSettings) -> Warden:
    """Not started: no thread, and no broker; what is emitted is kept."""
    return keep(Warden(settings))


def keep(warden: Warden) -> Warden:
    """Keep what is emitted in the queue."""

    def put(event: ServingEvent) -> bool:
        warden.events.backlog.waiting.append(event)
        return True

    warden.events.put = put  # type: ignore[method-assign]
    return warden


def command(warden: Warden, **fields: Any) -> None:
    """Put a command on the customer's key in force."""
    now = now_ms()
    key = {"key": warden.reference(API_KEY), "issued_ms": now, "expires_ms": now + HOUR_MS}
    signer = load_signer(warden.settings.trusted_keys.with_name("signing.pem"))
    verdict = warden.enforcer.table.apply(
        msgspec.json.encode(signer.sign(make_command(**(key | fields)))), now
    )
    assert verdict.outcome == "enforced", verdict


def make_app(warden: Warden, **hooks: Any) -> FastAPI:
    app = FastAPI()
    app.add_middleware(ModelwardenMiddleware, warden=warden, **hooks)

    @app.post("/predict")
    async def predict(request: Request) -> Any:
        inputs = json.loads(await request.body() or b"[1, 2, 3]")
        answer = request.state.modelwarden.observe(inputs=inputs, probabilities=ANSWER, plan="pro")
        return {"probabilities": np.asarray(answer).tolist()}

    @app.get("/open")
    async def unguarded() -> str:
        return "open"

    return app


def call(
    app: FastAPI,
    *,
    key: str | None = API_KEY,
    path: str = "/predict",
    body: bytes = b"",
    extra: tuple[str, str] | None = None,
) -> Any:
    """Make one HTTP call; return status, headers and decoded body."""
    headers = [] if extra is None else [(extra[0].encode(), extra[1].encode())]
    if key is not None:
        headers.append((b"authorization", b"Bearer " + key.encode()))
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST" if path == "/predict" else "GET",
        "path": path,
        "query_string": b"",
        "headers": headers,
    }
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    told = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], told, json.loads(b"".join(m.get("body", b"") for m in sent[1:]))


def events(warden: Warden) -> list[ServingEvent]:
    warden.observer.work()
    return list(warden.events.backlog.waiting)


def test_a_key_without_a_command_is_served_and_its_call_told(warden: Warden) -> None:
    status, _, body = call(make_app(warden))
    assert (status, body) == (200, {"probabilities": ANSWER})
    [event] = events(warden)
    assert event.key == warden.reference(API_KEY)
    assert (event.model, event.plan, event.predicted_class, event.top1) == ("digits", "pro", 1, 0.625)
    assert event.input_sketch is not None
    assert warden.counts == {"served": 1}


def test_a_call_without_a_key_is_the_applications_own_business(warden: Warden) -> None:
    assert call(make_app(warden), key=None, path="/open")[0] == 200
    assert warden.counts == {}


@pytest.mark.parametrize(
    ("action", "kind", "retry"),
    [
        ("suspend", "key_suspended", "3600"),
        ("revoke", "key_revoked", None),
        ("challenge", "verification_required", None),
    ],
)
def test_a_refusal_says_what_it_is_and_what_to_quote(
    warden: Warden, action: str, kind: str, retry: str | None
) -> None:
    command(warden, action=action)
    got, headers, body = call(make_app(warden))
    assert got == 403
    assert body["error"]["type"] == kind
    assert body["error"]["reference"] == make_command().command_id
    assert body["error"]["contact"] == "https://example.com/appeals"
    assert headers.get("retry-after") == retry
    assert events(warden) == [], "a refused call is not observed"
    assert API_KEY not in str((headers, body))
    assert call(make_app(warden), key="sk-another")[0] == 200


def test_the_key_is_found_in_either_header(warden: Warden) -> None:
    command(warden)
    assert call(make_app(warden), key=None, extra=("x-api-key", API_KEY))[0] == 403


def test_a_challenge_that_is_passed_lets_through(warden: Warden) -> None:
    command(warden, action="challenge")
    app = make_app(warden, is_verified=lambda scope: (b"x-proof", b"yes") in scope["headers"])
    assert call(app)[0] == 403
    assert call(app, extra=("x-proof", "yes"))[0] == 200


def test_a_throttle_lets_its_rate_through_and_says_when_to_come_back(settings: ServingSettings) -> None:
    time_ms = now_ms()
    warden = keep(Warden(settings, clock=lambda: time_ms))
    command(warden, action="throttle", parameters={"requests_per_minute": 300.0})
    app = make_app(warden)
    statuses = [call(app)[0] for _ in range(12)]
    assert statuses == [200] * 10 + [429] * 2
    assert call(app)[1]["retry-after"] == "1"
    time_ms += 400
    assert [call(app)[0] for _ in range(3)] == [200, 200, 429]


def test_answers_are_coarsened_and_watermarked_as_commanded(warden: Warden) -> None:
    command(warden, action="coarsen", parameters={"label_only": 1.0})
    assert call(make_app(warden))[2] == {"probabilities": [0.0, 1.0, 0.0]}
    assert events(warden)[0].top1 == 0.625, "detection sees what the model said"
    command(warden, action="watermark", sequence=2, parameters={"ratio": 1.0})
    first = call(make_app(warden), body=b"[4, 5, 6]")[2]["probabilities"]
    assert first != ANSWER
    assert sorted(first) == sorted(ANSWER)
    assert call(make_app(warden), body=b"[4, 5, 6]")[2]["probabilities"] == first, "the same every time"


def test_what_cannot_be_observed_is_served_and_counted(warden: Warden) -> None:
    app = make_app(warden)
    assert call(app, body=b"[1, 2, 3]")[0] == 200
    assert call(app, body=b"[1, 2]")[0] == 200, "another size"
    assert call(app, body=b'["a", "b", "c"]')[0] == 200, "no numbers"
    assert len(events(warden)) == 1
    assert warden.counts["unobserved"] == 2


def test_closed_until_ready_if_so_configured(settings: ServingSettings) -> None:
    closed = Warden(msgspec.structs.replace(settings, start_closed=True))
    status, headers, body = call(make_app(closed))
    assert (status, headers["retry-after"], body["error"]["type"]) == (503, "1", "starting")
    closed.enforcer.follower._ready.set()
    assert call(make_app(closed))[0] == 200


def test_three_lines_are_enough(
    settings: ServingSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Warden] = []
    monkeypatch.setattr(Warden, "start", lambda warden: started.append(warden))  # noqa: PLW0108 - binds
    lines = [
        f"{name}: {getattr(settings, name)}" for name in ("model", "kafka", "key_secret_file", "trusted_keys")
    ]
    (tmp_path / "serving.yaml").write_text("\n".join(lines))
    app = FastAPI()
    app.add_middleware(ModelwardenMiddleware, settings=tmp_path / "serving.yaml")

    @app.post("/predict")
    async def predict(request: Request) -> Any:
        return request.state.modelwarden.observe(inputs=[1, 2], probabilities=ANSWER)

    assert call(app)[::2] == (200, ANSWER)
    assert len(started) == 1


def test_a_websocket_of_a_suspended_key_is_closed(warden: Warden) -> None:
    command(warden)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    headers = [(b"authorization", b"Bearer " + API_KEY.encode())]
    scope = {"type": "websocket", "path": "/stream", "headers": headers}
    asyncio.run(make_app(warden)(scope, receive, send))
    assert [(m["type"], m["code"]) for m in sent] == [("websocket.close", 1008)]
