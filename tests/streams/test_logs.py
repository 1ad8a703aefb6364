"""Logs: two formats, and no secret in either."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Literal

import pytest
import structlog

from streams.logs import REDACTED, redact, setup_logs
from streams.settings import LogSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRETS = [
    "sk-abcdefghijklmnopqrstuvwx",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abcdefghijk",
    "AKIAABCDEFGHIJKLMNOP",
    "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA\n-----END PRIVATE KEY-----",
]


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("secret", SECRETS)
def test_no_secret_reaches_a_log_line(
    form: Literal["json", "console"], secret: str, capsys: pytest.CaptureFixture[str]
) -> None:
    setup_logs(LogSettings(format=form))
    structlog.get_logger("mine").info("started", note=f"uses {secret} here", nested={"deep": [secret]})
    logging.getLogger("aiokafka").warning("cannot join with %s", secret)
    written = capsys.readouterr().err
    assert "started" in written
    assert "cannot join" in written
    assert secret.splitlines()[-1] not in written
    assert secret not in written
    assert REDACTED in written


def test_an_exception_is_redacted_too(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logs(LogSettings(format="json"))
    try:
        int(SECRETS[0])
    except ValueError:
        structlog.get_logger("mine").exception("failed")
    line = json.loads(capsys.readouterr().err)
    assert line["event"] == "failed"
    assert line["level"] == "error"
    assert "ValueError" in line["exception"]
    assert SECRETS[0] not in line["exception"]


def test_fields_are_redacted_by_name_and_urls_by_their_password() -> None:
    assert redact({"api_key": "x", "KAFKA_PASSWORD": 3, "prompt_tokens": 4}) == {
        "api_key": REDACTED,
        "KAFKA_PASSWORD": REDACTED,
        "prompt_tokens": 4,
    }
    assert redact("kafka://user:hunter2@host:9092/x") == f"kafka://{REDACTED}@host:9092/x"


def test_what_is_no_secret_is_kept() -> None:
    assert redact("k3-0123456789abcdef0123456789abcdef at offset 17") == (
        "k3-0123456789abcdef0123456789abcdef at offset 17"
    )
    assert redact({"partition": 3, "ratio": 0.5, "on": True, "none": None}) == {
        "partition": 3,
        "ratio": 0.5,
        "on": True,
        "none": None,
    }


def test_the_level_holds(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logs(LogSettings(level="warning"))
    structlog.get_logger("mine").info("quiet")
    structlog.get_logger("mine").warning("loud")
    written = capsys.readouterr().err
    assert "quiet" not in written
    assert "loud" in written
