"""Files of events: every line comes back under its number, whatever it holds and however it is packed."""

from __future__ import annotations

import gzip
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams import eventfile
from streams.eventfile import read_event_file
from streams.places import PlaceError, open_writer

if TYPE_CHECKING:
    from pathlib import Path


def lines_of(path: Path, max_line_bytes: int) -> list[bytes | None]:
    messages = [m for block, _ in read_event_file(path, max_line_bytes=max_line_bytes) for m in block]
    assert [message.offset for message in messages] == list(range(len(messages)))
    return [message.value for message in messages]


@given(
    lines=st.lists(st.binary(max_size=40).map(lambda b: b.translate(None, b"\r\n")), max_size=20),
    packed=st.booleans(),
)
def test_lines_come_back(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], packed: bool) -> None:  # noqa: FBT001 - hypothesis passes it by name
    path = tmp_path_factory.mktemp("lines") / ("x.jsonl.gz" if packed else "x.jsonl")
    with open_writer(path) as file:
        file.write(b"".join(line + b"\n" for line in lines))
    assert lines_of(path, 100) == lines


def test_a_huge_line_is_cut_and_the_next_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"a" * 1_000_000 + b"\nnext\r\nlast")
    assert lines_of(path, 1000) == [b"a" * 1001, b"next", b"last"]


@given(
    lines=st.lists(st.binary(max_size=9).map(lambda b: b.replace(b"\n", b"")), max_size=20),
    size=st.integers(1, 30),
)
def test_blocks_of_any_size_give_the_same_lines(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], size: int
) -> None:
    path = tmp_path_factory.mktemp("lines") / "x.jsonl"
    path.write_bytes(b"\n".join(lines))
    whole = path.read_bytes().split(b"\n")
    expected = [line.removesuffix(b"\r")[:6] for line in (whole if whole[-1] else whole[:-1])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eventfile, "_BLOCK_BYTES", size)
        found = lines_of(path, 5)
    assert found == expected


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    short = tmp_path / "short.gz"
    short.write_bytes(gzip.compress(b"line\n" * 1000)[:-20])
    plain = tmp_path / "plain.gz"
    plain.write_bytes(b"no gzip\n")
    for path in (short, plain, tmp_path / "missing", tmp_path):
        with pytest.raises(PlaceError, match=re.escape(str(path))):
            lines_of(path, 1000)
