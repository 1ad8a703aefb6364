"""The adapter that only writes down what it is asked: for tests, and for a first week of watching."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from sinks.revocation.base import Order, Unavailable

if TYPE_CHECKING:
    from pathlib import Path


class JournalAdapter:
    """Appends each order to a file, one JSON object a line; one that stands there is not written again.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    async def deliver(self, order: Order) -> None:
        """Append an order."""
        try:
            if any(one.command_id == order.command_id for one in self.orders()):
                return
            with self._path.open("ab") as file:
                file.write(msgspec.json.encode(order) + b"\n")
        except OSError as error:
            raise Unavailable(f"cannot write the journal ({error.strerror})") from error

    def orders(self) -> list[Order]:
        """Read what was asked so far."""
        if not self._path.exists():
            return []
        return [msgspec.json.decode(line, type=Order) for line in self._path.read_bytes().splitlines()]

    async def close(self) -> None:
        """Need no tidying."""
