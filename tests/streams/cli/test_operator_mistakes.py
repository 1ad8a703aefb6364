"""What operators get wrong: each mistake gives one clear line, what to do, and the right exit code."""

from __future__ import annotations

import gzip
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
import yaml
from click.testing import CliRunner

from streams.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

MODELWARDEN = Path(sys.executable).with_name("modelwarden")
NOBODY = 65_534
RAW_KEY = "sk-live-0123456789abcdef"
EVENT = (
    b'{"schema":1,"time_ms":1767571200000,"key":"k0-00000000000000000000000000000001",'
    b'"gen_ai.request.model":"m"}\n'
)
TWICE = """
version: v1
rules:
  - {name: r, action: watch, duration_s: 60}
  - {name: r, action: watch, duration_s: 60}
"""


class Mistake(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A wrong call in a prepared folder, and what must be said."""

    what: str
    words: str
    says: str
    """What is wrong."""
    do: str
    """What to do about it."""
    exit_code: int = 1
    environment: dict[str, str] = {}


MISTAKES = msgspec.convert(
    yaml.safe_load(Path(__file__).with_name("mistakes.yaml").read_text()), list[Mistake]
)


@pytest.fixture(scope="module")
def other_port() -> Iterator[str]:
    """Listen like something that is no Kafka."""
    server = socket.create_server(("127.0.0.1", 0))
    stopped = threading.Event()

    def answer() -> None:
        while not stopped.is_set():
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.getsockname()[1]}"
    stopped.set()
    server.close()
    thread.join(5)


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """Make what the mistakes are made with."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "alerts.jsonl").write_bytes(b"")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "alerts.jsonl").write_text('{"schema":0,"id":"x"}\n')
    (tmp_path / "events.jsonl").write_bytes(EVENT * 3)
    (tmp_path / "old-schema.jsonl").write_bytes(EVENT.replace(b'"schema":1', b'"schema":7') * 5100)
    (tmp_path / "words.txt").write_text("This is no event.\n" * 5100)
    (tmp_path / "plain.gz").write_bytes(EVENT)
    (tmp_path / "cut.gz").write_bytes(gzip.compress(EVENT * 1000)[:-20])
    for name, text in {
        "broken": "kafka: [", "misspelt": "engine:\n  hot_kyes: 5", "type": "snapshot_interval_s: soon",
        "range": "dead_letters:\n  max_share: 3", "twice": TWICE,
        "misspelt-policy": "version: v\nrules:\n  - {name: r, acton: watch, duration_s: 60}",
        "throttle": "version: v\nrules:\n  - {name: r, action: throttle, duration_s: 60}",
        "everything": "version: v\nrules: []\nexceptions:\n"
        "  - {owner: a, reason: b, expires: 2030-01-01}",
    }.items():  # fmt: skip
        (tmp_path / f"{name}.yaml").write_text(text)
    (tmp_path / "taken.pem").write_text("")
    (tmp_path / "short").write_text("abc")
    (tmp_path / "secret").write_text("0123456789abcdef" * 4)
    for name in ("short", "secret"):
        (tmp_path / name).chmod(0o600)
    return tmp_path


def test_there_are_enough() -> None:
    assert len({mistake.what for mistake in MISTAKES}) == len(MISTAKES) >= 40


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.what.replace(" ", "-"))
def test_a_mistake_is_answered_by_one_line(
    mistake: Mistake, prepared: Path, other_port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(prepared)
    words = mistake.words.replace("{other}", other_port).replace("{raw_key}", RAW_KEY).split()
    result = CliRunner().invoke(main, words, env=dict(mistake.environment), input="")
    said = result.output if words[0] == "doctor" else result.stderr
    assert result.exit_code == mistake.exit_code, said
    error = " ".join(said.split()) if words[0] == "doctor" else said.strip().splitlines()[-1]
    assert mistake.says.replace("{other}", other_port) in error
    assert mistake.do in error
    assert RAW_KEY not in result.output + result.stderr
    assert "Traceback" not in said
    if mistake.exit_code == 1 and words[0] != "doctor":
        lines = [line for line in said.strip().splitlines() if not line.startswith("Replaying")]
        assert len(lines) == 1, "one line"
        assert error.startswith(f"Error: modelwarden {words[0]}")


WORKER = [
    ("no broker", {"MODELWARDEN_KAFKA": "127.0.0.1:1"}, "127.0.0.1:1"),
    ("acting without a key", {"MODELWARDEN_POLICY_MODE": "enforce"}, "modelwarden policy keygen"),
    ("a key that is not there", {"MODELWARDEN_SIGNING_KEY_FILE": "none.pem"}, "none.pem"),
    ("a key that is none", {"MODELWARDEN_SIGNING_KEY_FILE": "words.txt"}, "words.txt"),
]


@pytest.mark.parametrize(("what", "environment", "says"), WORKER, ids=[w[0] for w in WORKER])
def test_a_worker_that_cannot_start_says_why(
    what: str, environment: dict[str, str], says: str, prepared: Path
) -> None:
    del what
    environment = {"MODELWARDEN_KAFKA": "127.0.0.1:1", **environment}
    done = subprocess.run(
        [MODELWARDEN, "worker"], env={**os.environ, **environment}, cwd=prepared,
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    error = done.stderr.splitlines()[-1]
    assert error.startswith("Error: modelwarden worker: ")
    assert says in error


@pytest.mark.skipif(os.geteuid() != 0, reason="giving up rights needs rights: run as root for this test")
def test_without_permission_the_line_names_the_file(prepared: Path) -> None:
    prepared.chmod(0o755)
    (prepared / "events.jsonl").chmod(0o600)
    try:
        subprocess.run([MODELWARDEN, "--version"], user=NOBODY, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("the installation is not readable by others: install it where everybody may read")
    for words in (["replay", "events.jsonl"], ["simulate", "--events", "10", "--to", "new.jsonl"]):
        done = subprocess.run(
            [MODELWARDEN, *words], user=NOBODY, cwd=prepared, capture_output=True, text=True, check=False,
            env={**os.environ, "NUMBA_CACHE_DIR": "/tmp/nobody-kernels", "HOME": "/nonexistent"},  # noqa: S108 - made by that user
        )  # fmt: skip
        assert done.returncode == 1, done.stderr
        assert "Permission denied" in done.stderr.splitlines()[-1]
        assert words[-1] in done.stderr.splitlines()[-1]
