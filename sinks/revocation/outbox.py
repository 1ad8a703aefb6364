"""Orders on their way to the provider, on disk: an order that was taken survives kill -9.

SQLite, every change written through before the call returns. An order is kept under its command's id, so
that taking it twice is taking it once. A newer order for the same key replaces those that wait; a restore is
delivered only where a revocation may have reached the provider.
"""

from __future__ import annotations

import sqlite3
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from sinks.errors import ModelwardenError
from sinks.revocation.base import Order

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

State = Literal["pending", "done", "dead", "superseded", "unneeded"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS orders (
    command_id TEXT PRIMARY KEY,
    key TEXT NOT NULL,
    model TEXT,
    action TEXT NOT NULL,
    content BLOB NOT NULL,
    expires_ms INTEGER NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    due_ms INTEGER NOT NULL,
    error TEXT,
    changed_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS by_due ON orders (state, due_ms);
CREATE INDEX IF NOT EXISTS by_key ON orders (key, state);
"""
_COLUMNS = "content, expires_ms, state, attempts, due_ms, error, changed_ms"


class OutboxError(ModelwardenError):
    """The outbox's file cannot be used."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """An order and what has become of it."""

    order: Order
    expires_ms: int
    """The command's end: it is not begun after that."""
    state: State
    attempts: int
    due_ms: int
    """When it is tried next."""
    error: str | None
    changed_ms: int


class Outbox:
    """The orders of one revoker. Calls may come from any thread; each waits for the disk.

    Parameters
    ----------
    path : Path
        A file of its own, made if missing, its folder too.

    Raises
    ------
    OutboxError
        Here and in every call, if the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._base.execute("PRAGMA journal_mode = WAL")
            self._base.execute("PRAGMA synchronous = FULL")
            self._base.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise self._error(error) from error

    def put(self, order: Order, expires_ms: int, now_ms: int) -> bool:
        """Take an order; False if it was taken before."""
        with self._change() as base:
            if base.execute("SELECT 1 FROM orders WHERE command_id = ?", (order.command_id,)).fetchone():
                return False
            state = "pending" if order.action == "revoke" or self._may_be_revoked(base, order) else "unneeded"
            base.execute(
                "UPDATE orders SET state = 'superseded', changed_ms = ? "
                "WHERE key = ? AND state = 'pending' AND (? IS NULL OR model IS ?)",
                (now_ms, order.key, order.model, order.model),
            )
            base.execute(
                "INSERT INTO orders (command_id, key, model, action, content, expires_ms, state, due_ms, "
                "changed_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    order.command_id,
                    order.key,
                    order.model,
                    order.action,
                    msgspec.json.encode(order),
                    expires_ms,
                    state,
                    now_ms,
                    now_ms,
                ),
            )
        return True

    @staticmethod
    def _may_be_revoked(base: sqlite3.Connection, order: Order) -> bool:
        """Tell whether the provider may have heard of a revocation that the order ends."""
        found = base.execute(
            "SELECT 1 FROM orders WHERE key = ? AND action = 'revoke' AND (attempts > 0 OR state = 'done') "
            "AND (? IS NULL OR model IS ?)",
            (order.key, order.model, order.model),
        )
        return found.fetchone() is not None

    def due(self, now_ms: int, limit: int = 64) -> list[Entry]:
        """List orders to try now, the longest waiting first, one a key."""
        rows = self._read(
            f"SELECT {_COLUMNS} FROM orders WHERE state = 'pending' AND due_ms <= ? ORDER BY rowid LIMIT ?",  # noqa: S608 - our own words
            (now_ms, limit),
        )
        first: dict[str, Entry] = {}
        for row in rows:
            entry = _entry(row)
            first.setdefault(entry.order.key, entry)
        return list(first.values())

    def begin(self, command_id: str, now_ms: int) -> None:
        """Note that an order is about to reach the provider: from here on a restore must follow it there."""
        with self._change() as base:
            base.execute(
                "UPDATE orders SET attempts = attempts + 1, changed_ms = ? WHERE command_id = ?",
                (now_ms, command_id),
            )

    def finish(self, command_id: str, state: State, now_ms: int, error: str | None = None) -> None:
        """Note what became of an order; one that was superseded meanwhile becomes nothing but done."""
        with self._change() as base:
            base.execute(
                "UPDATE orders SET state = ?, error = ?, changed_ms = ? "
                "WHERE command_id = ? AND (state = 'pending' OR ? = 'done')",
                (state, error, now_ms, command_id, state),
            )

    def postpone(self, command_id: str, due_ms: int, now_ms: int, error: str) -> None:
        """Note that an order failed and when to try it again; one that was superseded meanwhile stays so."""
        with self._change() as base:
            base.execute(
                "UPDATE orders SET due_ms = ?, error = ?, changed_ms = ? "
                "WHERE command_id = ? AND state = 'pending'",
                (due_ms, error, now_ms, command_id),
            )

    def retry(self, now_ms: int, command_id: str | None = None) -> int:
        """Take dead orders up again, all or one; return how many."""
        with self._change() as base:
            changed = base.execute(
                "UPDATE orders SET state = 'pending', due_ms = ?, changed_ms = ? "
                "WHERE state = 'dead' AND (? IS NULL OR command_id = ?)",
                (now_ms, now_ms, command_id, command_id),
            )
        return changed.rowcount

    def entries(self, state: State | None = None) -> list[Entry]:
        """List the orders, or those in one state, oldest first."""
        rows = self._read(
            f"SELECT {_COLUMNS} FROM orders WHERE ? IS NULL OR state = ? ORDER BY rowid",  # noqa: S608 - our own words
            (state, state),
        )
        return [_entry(row) for row in rows]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._base.close()

    def _read(self, query: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                return self._base.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise self._error(error) from error

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """One transaction, on the disk when it ends."""
        with self._lock:
            try:
                self._base.execute("BEGIN IMMEDIATE")
                try:
                    yield self._base
                except BaseException:
                    if self._base.in_transaction:  # SQLite ends it itself where the disk is full
                        self._base.execute("ROLLBACK")
                    raise
                self._base.execute("COMMIT")
            except sqlite3.Error as error:
                raise self._error(error) from error

    def _error(self, error: Exception) -> OutboxError:
        do = "Free space or choose another file; two revokers must not share one"
        return OutboxError(f"outbox {self._path}", str(error), do)


def _entry(row: tuple[Any, ...]) -> Entry:
    names = ("expires_ms", "state", "attempts", "due_ms", "error", "changed_ms")
    fields = dict(zip(names, row[1:], strict=True))
    return msgspec.convert(fields | {"order": msgspec.json.decode(row[0], type=Order)}, Entry)
