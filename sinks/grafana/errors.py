"""What can go wrong with Grafana, by what to do about it."""

from __future__ import annotations

from typing import Literal

from sinks.errors import ModelwardenError

Cause = Literal["auth", "unavailable", "throttled", "refused"]
"""auth: the token. unavailable: the server, or the way to it. throttled: too fast. refused: the request."""

_DO: dict[Cause, str] = {
    "auth": "Give MODELWARDEN_GRAFANA_TOKEN a service account's token with the role Editor",
    "unavailable": "Check MODELWARDEN_GRAFANA_URL, the server and what stands between",
    "throttled": "Try again later",
    "refused": "Report this: the request does not suit that version of Grafana",
}


class GrafanaError(ModelwardenError):
    """A call failed.

    Parameters
    ----------
    what : str
        Method and path.
    why : str
        What the server said, or why it said nothing.
    cause : Cause
    status : int
        HTTP status; 0 without an answer.
    retry_after_s : float
        How long the server asked to wait; 0 if it did not.
    """

    def __init__(
        self, what: str, why: str, cause: Cause, *, status: int = 0, retry_after_s: float = 0.0
    ) -> None:
        super().__init__(f"Grafana, {what}", why, _DO[cause])
        self.cause: Cause = cause
        self.status = status
        self.retry_after_s = retry_after_s


class GrafanaVersionError(ModelwardenError):
    """The server is too old: it would take some of what it is told and drop it without a word."""


class GrafanaDriftError(ModelwardenError):
    """What the server holds after a write is not what was written."""
