"""The only way to a Grafana server: grafana-api 1.0.3, with its faults kept from the rest of the program.

grafana-api parses every 2xx body as JSON, so an empty 202 or 204 would raise after the server did the work;
it raises TypeError on errors that are no JSON object, loses Retry-After and quotes nothing. A hook on its
session looks at each answer before it does: errors become `GrafanaError`, an empty body becomes JSON's null.

Blocks, up to the timeouts: call it from a process or thread of its own. Not thread-safe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import requests
from grafana_api.grafana_face import GrafanaFace
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from sinks.errors import ModelwardenError
from sinks.grafana.errors import Cause, GrafanaError, GrafanaVersionError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from requests import PreparedRequest, Response

MINIMUM_VERSION = 10
"""The first with unified alerting only, and with everything by uid; older ones drop fields in silence."""
_SAID_LENGTH = 200
_RETRIED = Retry(
    total=2,
    backoff_factor=0.2,
    status_forcelist=(502, 503, 504),
    allowed_methods={"GET", "PUT", "DELETE"},  # these may be sent twice; a POST may not
    raise_on_status=False,
    respect_retry_after_header=False,  # the caller decides how long to wait
)


class GrafanaClient:
    """One connection to a server, one organisation.

    Parameters
    ----------
    url : str
        `https://grafana.example.com`, with a path if it is served below one.
    token : str
        Of a service account.
    connect_timeout_s, read_timeout_s : float

    Raises
    ------
    ModelwardenError
        If the URL is none.
    """

    def __init__(
        self, url: str, token: str, *, connect_timeout_s: float = 2.0, read_timeout_s: float = 10.0
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ModelwardenError(
                "MODELWARDEN_GRAFANA_URL", f"{url!r} is no URL", "Write https://host[:port]"
            )
        prefix = parts.path.strip("/")
        self._face = GrafanaFace(
            auth=token,
            host=parts.netloc.rpartition("@")[2],
            url_path_prefix=f"{prefix}/" if prefix else "",
            protocol=parts.scheme,
            timeout=(connect_timeout_s, read_timeout_s),
        )
        session: requests.Session = self._face.api.s
        session.headers["User-Agent"] = "modelwarden"
        session.hooks["response"].append(_check)
        session.mount(f"{parts.scheme}://", HTTPAdapter(max_retries=_RETRIED))

    def close(self) -> None:
        """Close the connections."""
        self._face.api.s.close()

    def call(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        """Send one request below `/api`; None for an empty answer. Make paths with `fill`.

        Raises
        ------
        GrafanaError
            Whatever went wrong.
        """
        try:
            return getattr(self._face.api, method)(path, json=body, headers=headers)
        except requests.RequestException as error:
            why = "no answer in time" if isinstance(error, requests.Timeout) else type(error).__name__
            raise GrafanaError(f"{method} {path}", why, "unavailable") from error

    def find(self, path: str) -> Any:
        """Get what stands at a path, or None if nothing does. Raises GrafanaError."""
        try:
            return self.call("GET", path)
        except GrafanaError as error:
            if error.status == requests.codes.not_found:
                return None
            raise

    def check_version(self) -> str:
        """Return the server's version.

        Raises
        ------
        GrafanaVersionError
            If it is older than `MINIMUM_VERSION`, or does not tell.
        GrafanaError
        """
        health = self.call("GET", "/health")
        version = str(health.get("version", "")) if isinstance(health, dict) else ""
        major = version.partition(".")[0]
        if not major.isdecimal() or int(major) < MINIMUM_VERSION:
            told = f"version {version}" if version else "no version is told"
            do = f"Use Grafana {MINIMUM_VERSION} or later (and allow anonymous readers of /api/health)"
            raise GrafanaVersionError("Grafana", told, do)
        return version


def fill(template: str, *values: str) -> str:
    """Put values into a path: `fill("/folders/{}", uid)`, quoted so that none can change its meaning."""
    return template.format(*(quote(value, safe="") for value in values))


def query(path: str, *parameters: tuple[str, str]) -> str:
    """Add query parameters to a path, quoted."""
    return f"{path}?" + "&".join(f"{quote(name)}={quote(value, safe='')}" for name, value in parameters)


def _check(response: Response, *_: Any, **__: Any) -> None:
    """Raise what is wrong with an answer; make an empty one JSON."""
    request: PreparedRequest = response.request
    what = f"{request.method} {urlsplit(request.url or '').path!s}"
    status = response.status_code
    if status >= 400:
        wait = response.headers.get("Retry-After", "")
        raise GrafanaError(
            what,
            f"status {status}: {_said(response)}",
            _cause(status),
            status=status,
            retry_after_s=float(wait) if wait.isdecimal() else 0.0,
        )
    if status >= 300:
        raise GrafanaError(what, "it was redirected, to a login page perhaps", "unavailable", status=status)
    if not response.content:
        response._content = b"null"  # noqa: SLF001 - what grafana-api will parse
    elif "json" not in response.headers.get("Content-Type", ""):
        raise GrafanaError(
            what, "the answer is no JSON: a proxy or a login page", "unavailable", status=status
        )


def _cause(status: int) -> Cause:
    if status in {401, 403}:
        return "auth"
    if status in {408, 429}:
        return "throttled"
    return "unavailable" if status >= 500 else "refused"


def _said(response: Response) -> str:
    """Return what an error's body says, on one line."""
    try:
        body = response.json()
    except ValueError:
        body = None
    said = body.get("message") if isinstance(body, dict) else None
    return " ".join(str(said or response.text or "no reason given").split())[:_SAID_LENGTH]
