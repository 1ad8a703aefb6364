"""A provider's end of the revocation webhook: verifies the signature, then revokes or restores a key.

    WEBHOOK_SECRET=whsec_... python deploy/examples/revocation/server.py --port 8090

It knows keys by their reference only, as a real key store would keep one beside each key
(`sinks.serving.keyref.key_reference`). GET /revoked lists the references that are revoked now. `--fail N`
answers the first N orders with 503, to see them tried again.
"""

from __future__ import annotations

import argparse
import os
import time

from aiohttp import web

from sinks.revocation.webhook import WebhookError, decode_secret, verify_webhook


class KeyStore:
    """The keys that are revoked, and the orders that said so."""

    def __init__(self, secret: bytes, failures: int) -> None:
        self._secret = secret
        self._failures = failures
        self._done: set[str] = set()
        self.revoked: set[str] = set()

    async def take(self, request: web.Request) -> web.Response:
        """Take one order; the same order twice is done once."""
        body = await request.read()
        try:
            order = verify_webhook(request.headers, body, self._secret, int(time.time()))  # noqa: TID251 - a receiver's own clock
        except WebhookError as error:
            return web.Response(status=401, text=f"{error}\n")
        if self._failures > 0:
            self._failures -= 1
            return web.Response(status=503)
        if order.command_id not in self._done:
            self._done.add(order.command_id)
            (self.revoked.add if order.action == "revoke" else self.revoked.discard)(order.key)
        return web.Response(status=204)

    async def tell(self, _request: web.Request) -> web.Response:
        """List what is revoked."""
        return web.json_response({"revoked": sorted(self.revoked), "orders": len(self._done)})


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--port", type=int, default=8090)
    parser.add_argument("--fail", type=int, default=0, metavar="N")
    options = parser.parse_args()
    store = KeyStore(decode_secret(os.environ["WEBHOOK_SECRET"]), options.fail)
    app = web.Application()
    app.router.add_post("/revocations", store.take)
    app.router.add_get("/revoked", store.tell)
    web.run_app(app, host="127.0.0.1", port=options.port, access_log=None, print=None)


if __name__ == "__main__":
    main()
