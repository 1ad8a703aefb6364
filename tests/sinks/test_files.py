"""The file sink: one file a kind, appended, readable at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from alerts import make_alert

from detectors.alert import Alert
from sinks.files import FileSink, FileSinkError

if TYPE_CHECKING:
    from pathlib import Path


def read(path: Path) -> list[Alert]:
    return [msgspec.json.decode(line, type=Alert) for line in path.read_bytes().splitlines()]


def test_records_are_readable_before_the_sink_is_closed(tmp_path: Path) -> None:
    with FileSink(tmp_path / "run" / "one") as sink:
        sink.write("alerts", [make_alert(0), make_alert(1)])
        assert read(tmp_path / "run" / "one" / "alerts.jsonl") == [make_alert(0), make_alert(1)]


def test_a_second_run_appends_and_an_empty_kind_makes_no_file(tmp_path: Path) -> None:
    for offset in range(3):
        with FileSink(tmp_path) as sink:
            sink.write("alerts", [make_alert(offset, sentence="two\nlines")])
            sink.write("commands", [])
        sink.close()
    assert read(tmp_path / "alerts.jsonl") == [make_alert(n, sentence="two\nlines") for n in range(3)]
    assert [path.name for path in tmp_path.iterdir()] == ["alerts.jsonl"]


def test_a_folder_that_cannot_be_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(FileSinkError, match=r"cannot write .*file.*choose another folder"):
        FileSink(tmp_path / "file")
    (tmp_path / "alerts.jsonl").mkdir()
    with FileSink(tmp_path) as sink, pytest.raises(FileSinkError, match="Is a directory"):
        sink.write("alerts", [make_alert()])
