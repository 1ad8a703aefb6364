"""ASGI middleware: refuses the calls of keys under a command, and lets the application tell what it served.

    from sinks.serving.middleware import ModelwardenMiddleware
    app.add_middleware(ModelwardenMiddleware, settings="serving.yaml")
    ...                                                      # and where the model is asked:
    answer = request.state.modelwarden.observe(inputs=pixels, probabilities=answer)

Works with any ASGI 3 server and framework (FastAPI, Starlette). Nothing here waits for Kafka.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from sinks.serving.settings import ServingSettings, load_serving_settings
from sinks.serving.warden import Denial, Warden

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

POLICY_VIOLATION = 1008
"""WebSocket close code (RFC 6455, section 7.4.1)."""


def header_key(scope: Scope) -> bytes | None:
    """Return the API key of a request: `Authorization: Bearer KEY`, else `X-API-Key: KEY`."""
    key = None
    for name, value in scope["headers"]:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return bytes(value[7:].strip()) or None
        if name == b"x-api-key":
            key = bytes(value.strip()) or None
    return key


class ModelwardenMiddleware:
    """Enforces commands, and emits an event for each call that the application observes.

    A request without a key passes: refusing it is the application's own business. For one with a key,
    `scope["state"]["modelwarden"]` (Starlette: `request.state.modelwarden`) is a `sinks.serving.warden.Call`.

    Parameters
    ----------
    app : callable
        The ASGI application.
    settings : ServingSettings or path, optional
        Or a `warden`, which then is its owner's to start and stop.
    warden : Warden, optional
    get_key : callable
        Takes the scope, returns the API key or None.
    get_tenant : callable, optional
        Takes the scope, returns the tenant or None.
    is_verified : callable, optional
        Takes the scope, tells whether the caller has passed the provider's challenge.
    """

    def __init__(  # noqa: PLR0913 - each is a hook of its own
        self,
        app: App,
        *,
        settings: ServingSettings | Path | str | None = None,
        warden: Warden | None = None,
        get_key: Callable[[Scope], str | bytes | None] = header_key,
        get_tenant: Callable[[Scope], str | None] = lambda _scope: None,
        is_verified: Callable[[Scope], bool] = lambda _scope: False,
    ) -> None:
        if (settings is None) == (warden is None):
            raise TypeError("give either settings or a warden")
        if isinstance(settings, str | Path):
            settings = load_serving_settings(Path(settings))
        self._app = app
        self._owns_warden = warden is None
        self.warden = warden if warden is not None else Warden(settings)  # type: ignore[arg-type]
        self._get_key = get_key
        self._get_tenant = get_tenant
        self._is_verified = is_verified
        if self._owns_warden:
            self.warden.start()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
            return
        api_key = self._get_key(scope)
        if not api_key:
            await self._app(scope, receive, send)
            return
        call = self.warden.begin(api_key, self._get_tenant(scope), is_verified=self._is_verified(scope))
        if call.denial is not None:
            await self._refuse(call.denial, scope, send)
            return
        scope.setdefault("state", {})["modelwarden"] = call
        await self._app(scope, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stop the threads when the application has stopped."""
        try:
            await self._app(scope, receive, send)
        finally:
            if self._owns_warden:
                self.warden.stop()

    async def _refuse(self, denial: Denial, scope: Scope, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": denial.message})
            return
        body = denial.body(self.warden.settings.contact)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        if denial.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % denial.retry_after_s))
        await send({"type": "http.response.start", "status": denial.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
