"""Files of events, one JSON object a line, as record blocks: what a worker takes from a topic, from a file.

Who calls it: the replay. Nothing is decoded here, and a line is never made an object of its own.
"""

from __future__ import annotations

import gzip
import sys
import zlib
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from streams.formats.lines import find_newlines
from streams.places import STANDARD, PlaceError
from streams.recordblock import (
    KEY_SIZE,
    OFFSET,
    PADDING,
    SPAN_ROWS,
    VALUE_SIZE,
    VALUE_START,
    RecordBlock,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

FILE_TOPIC = "events"
_BLOCK_BYTES = 4 * 1024 * 1024
_RETURN = 13


def read_event_file(
    path: Path, *, max_line_bytes: int, first_offset: int = 0
) -> Iterator[tuple[RecordBlock, int]]:
    """Yield the lines as records of partition 0, and how many bytes of the file have been read (0 for `-`).

    A line's number, counted from `first_offset`, is its offset; its end is no part of it. Of a line longer
    than `max_line_bytes` only that much and one byte is kept: enough to be refused for its length, too little
    to fill the memory. From standard input, lines are yielded as they come.

    Raises
    ------
    PlaceError
        If the file is missing, may not be read, or is no gzip file although its name ends in `.gz`.
    """
    try:
        if str(path) == STANDARD:
            for block in _blocks(sys.stdin.buffer, max_line_bytes, first_offset):
                yield block, 0
            return
        with path.open("rb", buffering=0) as raw:
            file = gzip.GzipFile(fileobj=raw, mode="rb") if path.suffix == ".gz" else raw
            # GzipFile has what BinaryIO promises, but not its name.
            for block in _blocks(file, max_line_bytes, first_offset):  # type: ignore[arg-type]
                yield block, raw.tell()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise PlaceError(str(path), f"a damaged gzip file ({error})", "Copy or make it again") from error
    except OSError as error:
        why = error.strerror or str(error)
        raise PlaceError(str(path), why, "Give a file of JSON lines, - for standard input") from error


def _blocks(file: BinaryIO, max_line_bytes: int, offset: int) -> Iterator[RecordBlock]:
    """Cut what comes into blocks of whole lines; each has memory of its own, read into once."""
    rest = np.empty(0, np.uint8)
    is_ended = False
    while not is_ended:
        data = np.empty(len(rest) + _BLOCK_BYTES + len(PADDING), np.uint8)
        data[: len(rest)] = rest
        # All that are opened here have one of the two; a pipe's readinto would wait for more than there is.
        read = getattr(file, "readinto1", None) or file.readinto  # type: ignore[attr-defined]
        got: int = read(data[len(rest) : -len(PADDING)])
        is_ended = not got
        data = data[: len(rest) + got + len(PADDING)]
        data[-len(PADDING) :] = 0
        block, behind = _take_lines(data, max_line_bytes, offset, is_ended=is_ended)
        if len(block):
            yield block
            offset += len(block)
        # The rest is kept no longer than what is refused for its length.
        rest = data[behind : -len(PADDING)][: max_line_bytes + 2].copy()


def _take_lines(
    data: NDArray[np.uint8], max_line_bytes: int, offset: int, *, is_ended: bool
) -> tuple[RecordBlock, int]:
    """Return the lines of a padded text and how far they reach; without an end only the last of all."""
    size = len(data) - len(PADDING)
    ends = find_newlines(data, size)
    behind = int(ends[-1]) + 1 if len(ends) else 0
    if is_ended and behind < size:
        ends, behind = np.append(ends, size), size
    found = len(ends)
    spans = np.zeros((SPAN_ROWS, found), np.int64)
    spans[OFFSET] = np.arange(offset, offset + found)
    spans[KEY_SIZE] = -1
    starts = spans[VALUE_START]
    starts[1:] = ends[:-1] + 1
    sizes = ends - starts
    sizes -= (sizes > 0) & (data[ends - 1] == _RETURN)
    spans[VALUE_SIZE] = np.minimum(sizes, max_line_bytes + 1)
    return RecordBlock(FILE_TOPIC, data, spans, last=offset + found - 1), behind
