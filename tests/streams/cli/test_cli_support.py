"""The support bundle: it says what is needed and holds no secret."""

from __future__ import annotations

import json
import stat
import tarfile
from typing import TYPE_CHECKING

from click.testing import CliRunner

from streams.cli import main

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

CANARY = "c4n4ryOfASecret0123456789"


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {m.name.split("/", 1)[1]: archive.extractfile(m).read() for m in archive.getmembers()}  # type: ignore[union-attr]  # all are files


def plant(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a secret everywhere that one may stand."""
    settings = folder / "modelwarden.yaml"
    (folder / "policy.yaml").write_text(
        "version: v1\nrules:\n  - {name: r, action: watch, duration_s: 60}\n"
        f"exceptions:\n  - tenants: [sk-{CANARY}]\n    owner: a\n    reason: sk-{CANARY}\n"
        "    expires: 2030-01-01\n"
    )
    settings.write_text(
        f"kafka: 127.0.0.1:1\nconsumer_group: sk-{CANARY}\npolicy_file: {folder}/policy.yaml\n"
        f"signing_key_file: {folder}/signing.pem\n"
    )
    (folder / "signing.pem").write_text(f"-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----\n")
    (folder / "worker.log").write_text(
        f"2026 info authorization=Bearer {CANARY}\n2026 info url=https://user:{CANARY}@host/\n"
        f"2026 error password={CANARY} api_key={CANARY}\n2026 info an honest line\n"
    )
    monkeypatch.setenv("KAFKA_OPTS", f"-Dpassword={CANARY}")
    monkeypatch.setenv("MODELWARDEN_SETTINGS", str(settings))
    return settings


def test_no_planted_secret_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, monkeypatch)
    words = ["support", "bundle", "--to", str(tmp_path / "b.tar.gz"), "--log", str(tmp_path / "worker.log")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    found = members(tmp_path / "b.tar.gz")
    assert set(found) == {
        "README.txt", "versions.json", "doctor.json", "settings.json", "variables.json", "policy.json",
        "topics.json", "metrics.txt", "logs/worker.log",
    }  # fmt: skip
    for name, content in found.items():
        assert CANARY.encode() not in content, name
        assert CANARY[3:15].encode() not in content, f"half of it is in {name}"
    assert CANARY not in result.output
    assert b"an honest line" in found["logs/worker.log"]
    assert "KAFKA_OPTS" in json.loads(found["variables.json"])
    assert json.loads(found["settings.json"])["kafka"] == "127.0.0.1:1"
    assert json.loads(found["policy.json"])["exceptions"] == 1
    assert "127.0.0.1:1" in json.loads(found["topics.json"])["error"]
    checks = {check["check"]: check["status"] for check in json.loads(found["doctor.json"])}
    assert checks["broker"] == "fail"
    assert all(name in found["README.txt"].decode() for name in found if name != "README.txt")
    assert stat.S_IMODE((tmp_path / "b.tar.gz").stat().st_mode) == 0o600


def test_an_archive_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "b.tar.gz").write_bytes(b"precious")
    result = CliRunner().invoke(main, ["support", "bundle", "--to", str(tmp_path / "b.tar.gz")])
    assert result.exit_code == 1
    assert "it is there already" in result.output
    assert (tmp_path / "b.tar.gz").read_bytes() == b"precious"


def test_wrong_settings_are_told_and_the_rest_is_there(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("kafak: x")
    words = ["support", "bundle", "--settings", str(tmp_path / "s.yaml"), "--to", str(tmp_path / "b.tar.gz")]
    assert CliRunner().invoke(main, words).exit_code == 0
    found = members(tmp_path / "b.tar.gz")
    assert "kafak" in json.loads(found["settings.json"])["error"]
    assert json.loads(found["versions.json"])["program"]["python"]
