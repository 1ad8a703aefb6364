"""The generic adapter: a signed webhook to an endpoint of the provider's.

Signed as Standard Webhooks 1.0 says (https://www.standardwebhooks.com, spec/standard-webhooks.md): headers
`webhook-id`, `webhook-timestamp`, and `webhook-signature: v1,<base64 HMAC-SHA256 of "id.timestamp.body">`, so
that a receiver in any language may use a library that exists. The id is the command's, and is the receiver's
key against repeats. `verify_webhook` is for receivers in Python.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from typing import TYPE_CHECKING

import aiohttp
import msgspec

from sinks.revocation.base import Order, Rejected, Unavailable
from sinks.serving.clock import now_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PREFIX = "whsec_"
TOLERANCE_S = 300
"""How far a receiver lets the timestamp be from its clock, as the specification advises."""
MIN_SECRET_BYTES = 24
"""As the specification asks."""
TIMEOUT_S = 10.0
RETRIED_STATUSES = frozenset({408, 409, 425, 429})
"""Of the 4xx kind, those that may turn out otherwise later."""


class WebhookError(ValueError):
    """A webhook is not to be believed; the text says why and repeats nothing of it."""


def decode_secret(text: str) -> bytes:
    """Read a secret: `whsec_` and base64 of at least 24 bytes. Raises ValueError, without repeating it."""
    try:
        secret = base64.b64decode(text.strip().removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("a webhook secret is `whsec_` and base64") from error
    if len(secret) < MIN_SECRET_BYTES:
        raise ValueError(f"a webhook secret has at least {MIN_SECRET_BYTES} bytes, not {len(secret)}")
    return secret


def sign_webhook(secret: bytes, webhook_id: str, timestamp_s: int, body: bytes) -> str:
    """Return the value of `webhook-signature`."""
    content = f"{webhook_id}.{timestamp_s}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(secret, content, "sha256")).decode("ascii")


def verify_webhook(headers: Mapping[str, str], body: bytes, secret: bytes, now_s: int) -> Order:
    """Check a webhook as its receiver and return the order in it.

    Parameters
    ----------
    headers : mapping
        Of the request; names in lower case, or any case-insensitive mapping.
    body : bytes
        Exactly as received.
    secret : bytes
        From `decode_secret`.
    now_s : int
        Seconds since 1970.

    Raises
    ------
    WebhookError
        If a header is missing, the time is too far off, no signature holds, or the body is no order.
    """
    webhook_id, timestamp, given = (
        headers.get(f"webhook-{name}") for name in ("id", "timestamp", "signature")
    )
    if not webhook_id or not timestamp or not given:
        raise WebhookError("a webhook header is missing")
    if not timestamp.isdecimal() or abs(now_s - int(timestamp)) > TOLERANCE_S:
        raise WebhookError("the timestamp is too far from this clock")
    expected = sign_webhook(secret, webhook_id, int(timestamp), body).encode()
    if not any(hmac.compare_digest(expected, one.encode()) for one in given.split(" ")):
        raise WebhookError("no signature holds")
    try:
        order = msgspec.json.decode(body, type=Order)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise WebhookError("the body is no order") from error
    if order.command_id != webhook_id:
        raise WebhookError("the id is not the order's")
    return order


class WebhookAdapter:
    """Posts orders to an endpoint.

    Parameters
    ----------
    url : str
    secret : bytes
        From `decode_secret`.
    clock : callable
        Milliseconds since 1970.
    """

    def __init__(self, url: str, secret: bytes, clock: Callable[[], int] = now_ms) -> None:
        self._url = url
        self._secret = secret
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None

    async def deliver(self, order: Order) -> None:
        """Post an order; any answer of the 2xx kind says that it is done."""
        body = msgspec.json.encode(order)
        timestamp_s = self._clock() // 1000
        headers = {
            "content-type": "application/json",
            "webhook-id": order.command_id,
            "webhook-timestamp": str(timestamp_s),
            "webhook-signature": sign_webhook(self._secret, order.command_id, timestamp_s, body),
        }
        await post(self._connected(), self._url, body, headers)

    async def close(self) -> None:
        """Release the connections."""
        if self._session is not None:
            await self._session.close()

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = make_session()
        return self._session


def make_session() -> aiohttp.ClientSession:
    """Return a client that waits for no answer longer than `TIMEOUT_S`."""
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))


async def post(session: aiohttp.ClientSession, url: str, body: bytes, headers: Mapping[str, str]) -> None:
    """Post, and turn what comes back into nothing, `Unavailable` or `Rejected`. Follows no redirect."""
    try:
        async with session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
            status = answer.status
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise Unavailable(f"no answer ({type(error).__name__})") from error
    if 200 <= status < 300:
        return
    if status >= 500 or status in RETRIED_STATUSES:
        raise Unavailable(f"HTTP status {status}")
    raise Rejected(f"HTTP status {status}")
