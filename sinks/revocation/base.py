"""The contract of a revocation adapter: what it is asked, what it must promise, how it fails.

Adapters: `webhook` (any provider), `litellm`, `journal` (a file, for tests and trials). The revoker calls
`deliver` for one order at a time per key, again after `Unavailable`, and perhaps again after a success that
it could not note before it was killed: an adapter must make a repeated `command_id` harmless.
"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from sinks.records import HexId, KeyReference, Name, TimeMs  # noqa: TC001 - msgspec reads the annotations


class Order(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked of the provider's key store. It holds the key's reference, never the key."""

    schema: Literal[1] = 1
    command_id: HexId
    """The same every time the order is delivered."""
    action: Literal["revoke", "restore"]
    key: KeyReference
    """`sinks.serving.keyref.key_reference` of the API key: the provider finds the key that has it."""
    model: Name | None = None
    """The only model meant; None: the whole key."""
    tenant: Name | None = None
    alert_id: HexId
    reason: str
    issued_ms: TimeMs


class Unavailable(Exception):  # noqa: N818 - named for the state it reports
    """The key store did not take the order now; it will be asked again. The text holds no secret."""


class Rejected(Exception):  # noqa: N818 - same
    """The key store will never take this order: a person must look. The text holds no secret."""


class Adapter(Protocol):
    """A way to a provider's key store. Called from one event loop."""

    async def deliver(self, order: Order) -> None:
        """Have an order done, and return when it is.

        Raises
        ------
        Unavailable
            If it may work later: no answer, an answer of the 5xx kind, too many requests.
        Rejected
            If it never will: no such key, a request that is refused as wrong.
        """

    async def close(self) -> None:
        """Release the connections."""
