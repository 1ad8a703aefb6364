"""Where traffic comes from and goes to, as written on the command line: a file, `-`, or a topic of a Kafka.

A topic is written `kafka://host:port[,host:port]/topic`, to read from with a range of offsets behind it, the
same in every partition: `@100..200` (100 to 199), `@100..` or `@..200`; or a range of times, those at which
the topic got its records: `@2026-01-05T08:00..2026-01-06` (UTC unless a zone is given), open ends as well.
"""

from __future__ import annotations

import gzip
import re
import sys
import zlib
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from streams.bus.base import Message
from streams.errors import ModelwardenError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

STANDARD = "-"
FILE_TOPIC = "events"
_BLOCK_BYTES = 1024 * 1024
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


def read_lines(path: Path, *, max_line_bytes: int) -> Iterator[tuple[list[bytes], int]]:
    """Yield lists of lines without their ends, and how many bytes of the file have been read (0 for `-`).

    Of a line longer than `max_line_bytes` only that much and one byte is kept: enough to be refused for its
    length, too little to fill the memory. From standard input, lines are yielded as they come.

    Raises
    ------
    PlaceError
        If the file is missing, may not be read, or is no gzip file although its name ends in `.gz`.
    """
    try:
        if str(path) == STANDARD:
            for lines in _lines(sys.stdin.buffer, max_line_bytes):
                yield lines, 0
            return
        with path.open("rb") as raw:
            file = gzip.GzipFile(fileobj=raw, mode="rb") if path.suffix == ".gz" else raw
            for lines in _lines(file, max_line_bytes):  # type: ignore[arg-type]  # as in open_writer
                yield lines, raw.tell()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise PlaceError(str(path), f"a damaged gzip file ({error})", "Copy or make it again") from error
    except OSError as error:
        why = error.strerror or str(error)
        raise PlaceError(str(path), why, "Give a file of JSON lines, - for standard input") from error


def _lines(file: BinaryIO, max_line_bytes: int) -> Iterator[list[bytes]]:
    """Cut what comes into lines, a block at a time."""
    rest = b""
    while block := file.read1(_BLOCK_BYTES):  # type: ignore[attr-defined]  # all that are opened here have it
        first, *others = block.split(b"\n")
        # The rest is kept no longer than what is refused for its length.
        rest = (rest + first)[: max_line_bytes + 2]
        if others:
            whole = [rest, *others[:-1]]
            yield [line.rstrip(b"\r")[: max_line_bytes + 1] for line in whole]
            rest = others[-1][: max_line_bytes + 2]
    if rest:
        yield [rest.rstrip(b"\r")[: max_line_bytes + 1]]


def file_messages(blocks: Iterable[list[bytes]], *, partition: int = 0) -> Iterator[list[Message]]:
    """Yield the lines of files as records of a topic `events`; a line's number is its offset."""
    offset = 0
    for lines in blocks:
        yield [
            Message(topic=FILE_TOPIC, partition=partition, offset=number, value=line)
            for number, line in enumerate(lines, offset)
        ]
        offset += len(lines)
