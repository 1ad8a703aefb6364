"""The spool: annotations on disk until Grafana has them, together with where reading the topics stands.

One SQLite file. What is read and how far it is read become durable in one transaction, so a kill -9 loses
nothing and spools nothing twice. Every annotation that is offered ends as written, coalesced or dropped, and
`counts` says how many of each, over all restarts.

Not thread-safe; a thread opens its own, but only after another has made the file: two that make it at once
find it locked.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import msgspec

from sinks.errors import ModelwardenError
from sinks.grafana.annotation import Annotation, summarise

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from sinks.grafana.annotation import Kind

    Place = tuple[str, int]
    """Topic and partition."""

Drop = Literal["spool_full", "too_old", "refused"]

REPEAT_MS = 300_000
"""Two annotations of one kind and place within this time are told as one."""
_SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS waiting (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE, kind TEXT, offered_ms INTEGER,
    is_tried INTEGER DEFAULT 0, body BLOB
);
CREATE TABLE IF NOT EXISTS recent (place TEXT PRIMARY KEY, time_ms INTEGER);
CREATE TABLE IF NOT EXISTS positions (topic TEXT, part INTEGER, next INTEGER, PRIMARY KEY (topic, part));
CREATE TABLE IF NOT EXISTS counts (what TEXT, label TEXT, n INTEGER, PRIMARY KEY (what, label));
"""


class SpoolError(ModelwardenError):
    """The spool's file cannot be used."""


@contextmanager
def spool_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite raises within a `with` block into SpoolError."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        do = "Free space or choose another file; what Grafana has not got yet waits in it"
        raise SpoolError(f"spool {path}", str(error), do) from error


class Waiting(msgspec.Struct, frozen=True):
    """One annotation that waits."""

    number: int
    annotation: Annotation
    offered_ms: int
    is_tried: bool
    """It may stand on the server already."""


class Spool:
    """The file.

    Parameters
    ----------
    path : Path
        Made if missing.
    most : int
        Annotations that may wait; the oldest are dropped for newer ones.
    oldest_ms : int
        Age at which one is dropped.

    Raises
    ------
    SpoolError
        If the file cannot be opened.
    sqlite3.Error
        Everywhere else, if the disk refuses; callers have `spool_errors` around what they do.
    """

    def __init__(self, path: Path, *, most: int = 100_000, oldest_ms: int = 86_400_000) -> None:
        with spool_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, timeout=30)
            self._db.executescript(_SCHEMA)
        self._most = most
        self._oldest_ms = oldest_ms

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def positions(self) -> dict[Place, int]:
        """Return the next offset to read, by topic and partition."""
        return {(topic, part): next_ for topic, part, next_ in self._db.execute("SELECT * FROM positions")}

    def offer(self, annotations: Iterable[Annotation], positions: Mapping[Place, int], now_ms: int) -> None:
        """Take annotations, and note how far the topics are read, both or neither."""
        with self._transaction():
            for annotation in annotations:
                self._count("offered", annotation.kind)
                if self._is_repeated(annotation):
                    self._count("coalesced", annotation.kind)
                else:
                    self._insert(annotation, now_ms)
            self._db.executemany(
                "INSERT OR REPLACE INTO positions VALUES (?, ?, ?)",
                [(topic, part, offset) for (topic, part), offset in positions.items()],
            )
            self._drop_excess(now_ms)

    def next(self) -> Waiting | None:
        """Return the oldest that waits."""
        row = self._db.execute(
            "SELECT number, body, offered_ms, is_tried FROM waiting ORDER BY number LIMIT 1"
        ).fetchone()
        return None if row is None else _waiting(row)

    def mark_tried(self, waiting: Waiting) -> None:
        """Note that it is about to be written, before it is: after a crash it may stand there already."""
        self._db.execute("UPDATE waiting SET is_tried = 1 WHERE number = ?", (waiting.number,))

    def finish(self, waiting: Waiting, drop: Drop | None = None) -> None:
        """Take it off: it is written, or dropped for a reason."""
        with self._transaction():
            self._db.execute("DELETE FROM waiting WHERE number = ?", (waiting.number,))
            self._count(*(("dropped", drop) if drop else ("written", waiting.annotation.kind)))

    def coalesce(self, *, above: int, at_once: int, now_ms: int) -> int:
        """If more than `above` wait, tell the oldest `at_once` by one summary; return how many those were.

        What may have been written already, or is a summary itself, is left.
        """
        if self.depth() <= above:
            return 0
        rows = self._db.execute(
            "SELECT number, body, offered_ms, is_tried FROM waiting WHERE is_tried = 0 "
            "AND kind IN ('alert', 'command') ORDER BY number LIMIT ?",
            (at_once,),
        ).fetchall()
        found = [_waiting(row) for row in rows]
        if len(found) < 2:
            return 0
        with self._transaction():
            for one in found:
                self._db.execute("DELETE FROM waiting WHERE number = ?", (one.number,))
                self._count("coalesced", one.annotation.kind)
            self._count("offered", "summary")
            self._insert(summarise([one.annotation for one in found]), now_ms)
        return len(found)

    def depth(self) -> int:
        """Count what waits."""
        return int(self._db.execute("SELECT count(*) FROM waiting").fetchone()[0])

    def oldest_offered_ms(self) -> int | None:
        """Return when the oldest that waits was offered, or None."""
        found: int | None = self._db.execute("SELECT min(offered_ms) FROM waiting").fetchone()[0]
        return found

    def counts(self) -> dict[tuple[str, str], int]:
        """Return how many were offered, written, coalesced and dropped, by kind or reason, ever."""
        return {(what, label): n for what, label, n in self._db.execute("SELECT * FROM counts")}

    def _is_repeated(self, annotation: Annotation) -> bool:
        place = f"{annotation.kind}:{annotation.place}"
        row = self._db.execute("SELECT time_ms FROM recent WHERE place = ?", (place,)).fetchone()
        if row is not None and abs(annotation.time_ms - row[0]) < REPEAT_MS:
            return True
        self._db.execute("INSERT OR REPLACE INTO recent VALUES (?, ?)", (place, annotation.time_ms))
        return False

    def _insert(self, annotation: Annotation, now_ms: int) -> None:
        cursor = self._db.execute(
            "INSERT OR IGNORE INTO waiting (id, kind, offered_ms, body) VALUES (?, ?, ?, ?)",
            (annotation.annotation_id, annotation.kind, now_ms, msgspec.json.encode(annotation)),
        )
        if cursor.rowcount == 0:
            self._count("coalesced", annotation.kind)

    def _drop_excess(self, now_ms: int) -> None:
        old = self._db.execute(
            "DELETE FROM waiting WHERE offered_ms < ?", (now_ms - self._oldest_ms,)
        ).rowcount
        self._count("dropped", "too_old", old)
        excess = max(self.depth() - self._most, 0)
        self._db.execute(
            "DELETE FROM waiting WHERE number IN (SELECT number FROM waiting ORDER BY number LIMIT ?)",
            (excess,),
        )
        self._count("dropped", "spool_full", excess)
        self._db.execute("DELETE FROM recent WHERE time_ms < ?", (now_ms - self._oldest_ms,))

    def _count(self, what: str, label: Kind | Drop | str, n: int = 1) -> None:
        self._db.execute(
            "INSERT INTO counts VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n",
            (what, label, n),
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._db.in_transaction:  # SQLite ends it itself where the disk is full
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def _waiting(row: tuple[int, bytes, int, int]) -> Waiting:
    number, body, offered_ms, is_tried = row
    return Waiting(number, msgspec.json.decode(body, type=Annotation), offered_ms, bool(is_tried))
