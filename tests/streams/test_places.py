"""Places on the command line, and files of lines."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.places import PlaceError, TopicPlace, open_writer, parse_place, read_lines


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("events.jsonl", Path("events.jsonl")),
        ("-", Path("-")),
        ("kafka://h:9092/t", TopicPlace("h:9092", "t")),
        ("kafka://a:1,b:2/mw.events@10..20", TopicPlace("a:1,b:2", "mw.events", 10, 20)),
        ("kafka://h:1/t@..7", TopicPlace("h:1", "t", 0, 7)),
        ("kafka://h:1/t@7..", TopicPlace("h:1", "t", 7, None)),
        (
            "kafka://h:1/t@2026-01-05T08:00..2026-01-06T00:00+01:00",
            TopicPlace("h:1", "t", first_ms=1_767_600_000_000, last_ms=1_767_654_000_000),
        ),
        ("kafka://h:1/t@2026-01-05..", TopicPlace("h:1", "t", first_ms=1_767_571_200_000)),
    ],
)
def test_places_are_read(text: str, place: TopicPlace | Path) -> None:
    assert parse_place(text) == place


@pytest.mark.parametrize(
    "text",
    ["kafka://h/t", "kafka://h:1", "kafka:h:1/t", "kafka://h:1/t@5", "kafka://h:1/t@5..5", "kafka://h:1/a b"],
)
def test_bad_addresses_say_how_to_write_them(text: str) -> None:
    with pytest.raises(PlaceError, match=re.escape(text)):
        parse_place(text)


@given(
    lines=st.lists(st.binary(max_size=40).map(lambda b: b.translate(None, b"\r\n")), max_size=20),
    packed=st.booleans(),
)
def test_lines_come_back(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], packed: bool) -> None:  # noqa: FBT001 - hypothesis passes it by name
    path = tmp_path_factory.mktemp("lines") / ("x.jsonl.gz" if packed else "x.jsonl")
    with open_writer(path) as file:
        file.write(b"".join(line + b"\n" for line in lines))
    assert [line for found, _ in read_lines(path, max_line_bytes=100) for line in found] == lines


def test_a_huge_line_is_cut_and_the_next_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"a" * 1_000_000 + b"\nnext\r\nlast")
    found = [line for lines, _ in read_lines(path, max_line_bytes=1000) for line in lines]
    assert found == [b"a" * 1001, b"next", b"last"]


def test_equal_content_makes_equal_gzip_bytes(tmp_path: Path) -> None:
    for name in ("one.gz", "other.gz"):
        with open_writer(tmp_path / name) as file:
            file.write(b"content\n")
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "other.gz").read_bytes()


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    short = tmp_path / "short.gz"
    short.write_bytes(gzip.compress(b"line\n" * 1000)[:-20])
    plain = tmp_path / "plain.gz"
    plain.write_bytes(b"no gzip\n")
    for path in (short, plain, tmp_path / "missing", tmp_path):
        with pytest.raises(PlaceError, match=re.escape(str(path))):
            list(read_lines(path, max_line_bytes=1000))
