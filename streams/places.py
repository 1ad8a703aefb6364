"""Where traffic comes from and goes to, as written on the command line: a file, `-`, or a topic of a Kafka.

A topic is written `kafka://host:port[,host:port]/topic`, to read from with a range of offsets behind it, the
same in every partition: `@100..200` (100 to 199), `@100..` or `@..200`; or a range of times, those at which
the topic got its records: `@2026-01-05T08:00..2026-01-06` (UTC unless a zone is given), open ends as well.
"""

from __future__ import annotations

import gzip
import re
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from streams.errors import ModelwardenError

if TYPE_CHECKING:
    from collections.abc import Iterator

STANDARD = "-"
_TOPIC = re.compile(
    r"kafka://(?P<bootstrap>[^\s,/@]+:\d+(?:,[^\s,/@]+:\d+)*)/(?P<topic>[a-zA-Z0-9._-]{1,249})"
    r"(?:@(?P<first>[0-9T:.+Z-]*?)\.\.(?P<last>[0-9T:.+Z-]*))?"
)


class PlaceError(ModelwardenError):
    """A place is badly written, or cannot be read."""


class TopicPlace(msgspec.Struct, frozen=True):
    """A topic of a Kafka, and the offsets to read."""

    bootstrap: str
    topic: str
    first: int = 0
    last: int | None = None
    """The first offset that is not read; None for the end as it stands."""
    first_ms: int | None = None
    last_ms: int | None = None
    """The same by time, where a range of times is given."""


def parse_place(text: str) -> TopicPlace | Path:
    """Read a place; a path, `-` among them, if it does not begin with `kafka://`.

    Raises
    ------
    PlaceError
        If the address of a topic is badly written.
    """
    if not text.startswith("kafka:"):
        return Path(text)
    match = _TOPIC.fullmatch(text)
    if match is None:
        why = "not the address of a topic"
        raise PlaceError(
            text, why, "Write kafka://host:port/topic, and to read a part of it @from..to behind"
        )
    first, last = match["first"] or "", match["last"] or ""
    address = match["bootstrap"], match["topic"]
    if all(part.isdecimal() for part in (first, last) if part):
        place = TopicPlace(*address, int(first or 0), int(last) if last else None)
        is_empty = place.last is not None and place.last <= place.first
    else:
        first_ms, last_ms = (parse_time(part, text) if part else None for part in (first, last))
        place = TopicPlace(*address, first_ms=first_ms, last_ms=last_ms)
        is_empty = first_ms is not None and last_ms is not None and last_ms <= first_ms
    if is_empty:
        raise PlaceError(text, "the range is empty", "Write @from..to with from below to")
    return place


def parse_time(text: str, what: str) -> int:
    """Read an ISO 8601 time, UTC where it has no zone, as milliseconds since 1970. Raises PlaceError."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise PlaceError(
            what, "neither offsets nor times", "Write @100..200 or @2026-01-05T08:00..2026-01-06"
        ) from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)


@contextmanager
def open_writer(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing, or standard output for `-`; gzip if the name ends in `.gz`.

    The gzip stream holds neither a name nor a time, so that equal content makes equal bytes. Raises OSError.
    """
    if str(path) == STANDARD:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as raw:
        if path.suffix != ".gz":
            yield raw
            return
        with gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as packed:
            yield packed  # type: ignore[misc]  # GzipFile has what BinaryIO promises, but not its name
