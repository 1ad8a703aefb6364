"""The adapter for LiteLLM's proxy: `POST /key/block` and `POST /key/unblock`.

Both take `{"key": ...}`, the key itself or the hash under which the proxy stores it, and need an admin's key
(https://docs.litellm.ai, key management: block_key, unblock_key). Only hashes are used here. Which hash a
reference stands for is known to whoever has both; a file of lines `{"key": REFERENCE, "token": HASH}` says it
(`KeyMap`), made where keys are issued. A raw key in that file is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from sinks.errors import ModelwardenError
from sinks.records import KeyReference  # noqa: TC001 - msgspec reads the annotations
from sinks.revocation.base import Order, Rejected
from sinks.revocation.webhook import make_session, post

if TYPE_CHECKING:
    from pathlib import Path

    import aiohttp


class KeyMapError(ModelwardenError):
    """The file of references and hashes cannot be used."""


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    key: KeyReference
    token: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the key, as LiteLLM stores it."""


class KeyMap:
    """From references to the provider's own ids, from a file that may grow while it is used.

    Parameters
    ----------
    path : Path

    Raises
    ------
    KeyMapError
        If a line is wrong. It is not repeated: it may hold a raw key.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_at: tuple[int, int] | None = None
        self._tokens: dict[str, str] = {}
        self._refresh()

    def find(self, key: str) -> str | None:
        """Return the provider's id of a key, if the file has it."""
        if key not in self._tokens:
            self._refresh()
        return self._tokens.get(key)

    def _refresh(self) -> None:
        try:
            stat = self._path.stat()
            if self._read_at == (stat.st_mtime_ns, stat.st_size):
                return
            lines = self._path.read_bytes().splitlines()
        except OSError as error:
            raise KeyMapError(f"key map {self._path}", str(error.strerror), "Correct the path") from error
        tokens: dict[str, str] = {}
        for number, line in enumerate(lines, 1):
            try:
                read = msgspec.json.decode(line, type=_Line)
            except (msgspec.MsgspecError, UnicodeError) as error:
                why = 'it is not {"key": REFERENCE, "token": 64 hex digits}'
                do = "Correct it; never write a raw key there"
                raise KeyMapError(f"key map {self._path}, line {number}", why, do) from error
            tokens[read.key] = read.token
        self._tokens = tokens
        self._read_at = (stat.st_mtime_ns, stat.st_size)


class LiteLLMAdapter:
    """Blocks and unblocks keys at a LiteLLM proxy; a LiteLLM key is blocked for all models at once.

    Parameters
    ----------
    url : str
        Of the proxy, such as `https://llm.example.com`.
    admin_key : str
        Allowed to block keys.
    keys : KeyMap
    """

    def __init__(self, url: str, admin_key: str, keys: KeyMap) -> None:
        self._url = url.rstrip("/")
        self._admin_key = admin_key
        self._keys = keys
        self._session: aiohttp.ClientSession | None = None

    async def deliver(self, order: Order) -> None:
        """Block the key of a revocation, unblock that of a restore; both are harmless twice."""
        token = self._keys.find(order.key)
        if token is None:
            raise Rejected("the key map has no such reference")
        if self._session is None:
            self._session = make_session()
        verb = "block" if order.action == "revoke" else "unblock"
        headers = {
            "authorization": f"Bearer {self._admin_key}",
            "content-type": "application/json",
            "litellm-changed-by": f"modelwarden/{order.command_id}",
        }
        body = msgspec.json.encode({"key": token})
        await post(self._session, f"{self._url}/key/{verb}", body, headers)

    async def close(self) -> None:
        """Release the connections."""
        if self._session is not None:
            await self._session.close()
