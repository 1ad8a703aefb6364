"""A server that answers like Grafana: it checks each call against a contract, keeps what it is given, and can
be told to misbehave. Without a contract (the documents are absent) it takes whatever comes."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable

    from grafana_contract import Contract

    Misbehaviour = Callable[[web.Request], web.Response | None]
    """Answers in place of the server, or returns None to let it answer."""


def _say(value: Any, status: int = 200) -> web.Response:
    return web.Response(text=json.dumps(value), status=status, content_type="application/json")


class GrafanaDouble:
    """`with GrafanaDouble(contract) as server: GrafanaClient(server.url, "token")`."""

    def __init__(self, contract: Contract | None = None, version: str = "12.4.0") -> None:
        self._contract = contract
        self.version = version
        self.calls: list[tuple[str, str]] = []
        self.violations: list[str] = []
        self.script: list[Misbehaviour] = []
        """Each is used for one call, in turn."""
        self.always: Misbehaviour | None = None
        self.delay_s = 0.0
        self.store: dict[str, Any] = {}
        """What stands there, by path."""
        self.annotations: list[dict[str, Any]] = []
        self.silences: list[dict[str, Any]] = []
        self.folder_uid_is_ignored = False
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        started = threading.Event()

        async def start() -> None:
            app = web.Application()
            app.router.add_route("*", "/{tail:.*}", self._handle)
            self._runner = web.AppRunner(app)
            await self._runner.setup()
            site = web.TCPSite(self._runner, "127.0.0.1", self.port)
            await site.start()
            self.port = self._runner.addresses[0][1]
            started.set()

        def run() -> None:
            asyncio.set_event_loop(self._loop)
            self._loop.run_until_complete(start())
            self._loop.run_forever()

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        assert started.wait(10), f"nothing listens at port {self.port}"
        return self

    def restart(self) -> None:
        """Come back at the same address after an end, with everything that was there."""
        self._loop = asyncio.new_event_loop()
        self.__enter__()

    def __exit__(self, *_: object) -> None:
        if self._loop.is_closed():
            return  # gone already

        async def stop() -> None:
            assert self._runner is not None
            await self._runner.cleanup()

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.calls.append((request.method, request.path_qs))
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        misbehave = self.script.pop(0) if self.script else self.always
        answer = None if misbehave is None else misbehave(request)
        if answer is not None:
            return answer
        success = 200
        if self._contract is not None:
            operation, wrong = self._contract.check(request.method, request.path_qs, body, request.headers)
            self.violations += wrong
            if wrong or operation is None:
                return _say({"message": "; ".join(wrong)}, 400)
            success = operation.success
        return self._answer(request, json.loads(body) if body else None, success)

    def _answer(  # noqa: PLR0911 - one for each kind of call
        self, request: web.Request, body: Any, success: int
    ) -> web.Response:
        path, method = request.path.removeprefix("/api"), request.method
        if path == "/health":
            return _say({"version": self.version, "database": "ok"})
        if path == "/annotations":
            return self._annotate(request, body)
        if path.endswith("/silences") and method == "POST":
            self.silences.append(body)
            return _say({"silenceID": f"s{len(self.silences)}"}, success)
        if path == "/v1/provisioning/contact-points" and method == "GET":
            points = [v for k, v in self.store.items() if k.startswith("/v1/provisioning/contact-points/")]
            return _say([{**p, "settings": dict.fromkeys(p["settings"], "[REDACTED]")} for p in points])
        if method == "GET":
            return _say(self.store[path]) if path in self.store else _say({"message": "not found"}, 404)
        if method == "DELETE":
            self.store.pop(path, None)
            return web.Response(status=success)
        self._keep(path, body)
        # Provisioning answers 202 with an empty body, as the real server does for contact points.
        return web.Response(status=202) if success == 202 else _say({"message": "ok", **body}, success)

    def _keep(self, path: str, body: Any) -> None:
        if path == "/dashboards/db":
            uid = None if self.folder_uid_is_ignored else body["folderUid"]
            kept = {"dashboard": {**body["dashboard"], "id": 7, "version": 1}, "meta": {"folderUid": uid}}
            self.store[f"/dashboards/uid/{body['dashboard']['uid']}"] = kept
        elif path == "/datasources":
            self.store[f"/datasources/uid/{body['uid']}"] = {**body, "id": 1, "readOnly": False}
        elif path in {"/folders", "/v1/provisioning/contact-points"}:
            self.store[f"{path}/{body['uid']}"] = body
        else:
            self.store[path] = {**self.store.get(path, {}), **body}

    def _annotate(self, request: web.Request, body: Any) -> web.Response:
        if request.method == "POST":
            self.annotations.append(body)
            return _say({"message": "Annotation added", "id": len(self.annotations)})
        wanted = set(request.query.getall("tags", []))
        found = [a for a in self.annotations if wanted <= set(a["tags"])]
        return _say(found[: int(request.query.get("limit", "100"))])
