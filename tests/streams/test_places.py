"""Places on the command line, and files of lines."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from streams.places import PlaceError, TopicPlace, open_writer, parse_place


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


def test_equal_content_makes_equal_gzip_bytes(tmp_path: Path) -> None:
    for name in ("one.gz", "other.gz"):
        with open_writer(tmp_path / name) as file:
            file.write(b"content\n")
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "other.gz").read_bytes()
