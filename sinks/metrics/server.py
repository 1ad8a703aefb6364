"""One small HTTP server a process: `/metrics`, and the health endpoints of whoever watches over it.

`/livez`: restart me if this fails. `/readyz`: count on me only while this succeeds. `/startupz`: wait for
this before asking the others. 200 and `ok`, or 503 and one reason a line. Threads of its own answer, so it
answers while the process is busy. It listens on loopback by default.
"""

from __future__ import annotations

from socketserver import ThreadingMixIn
from threading import Thread
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

from sinks.errors import ModelwardenError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from prometheus_client import CollectorRegistry

    Probe = Callable[[], Sequence[str]]
    """What is wrong, one reason each; nothing if all is well. Called from other threads, never blocks."""


class ServeError(ModelwardenError):
    """The address for scrapes cannot be had."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's signature
        """Say nothing: scrapes come every few seconds."""


def serve(
    registry: CollectorRegistry, host: str, port: int, probes: Mapping[str, Probe]
) -> Callable[[], None]:
    """Answer until the function that is returned is called.

    Parameters
    ----------
    registry : CollectorRegistry
        What `/metrics` shows.
    host, port : str, int
        Where to listen.
    probes : mapping of str to callable
        By path, such as `/livez`.

    Raises
    ------
    ServeError
        If the address cannot be had.
    """
    metrics: Any = make_wsgi_app(registry)

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            shown: Iterable[bytes] = metrics(environ, start_response)
            return shown
        probe = probes.get(path)
        reasons = [] if probe is None else probe()
        status = "404 Not Found" if probe is None else "503 Service Unavailable" if reasons else "200 OK"
        text = f"there is {', '.join(['/metrics', *probes])}" if probe is None else "\n".join(reasons) or "ok"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")])
        return [f"{text}\n".encode()]

    try:
        server = make_server(host, port, answer, _Server, _Quiet)
    except OSError as error:
        raise ServeError(
            f"metrics.port {port} on metrics.host {host}",
            str(error.strerror),
            "Give every process of a machine its own metrics.port, or set metrics.enabled to false",
        ) from error
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="metrics", daemon=True)
    thread.start()

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
