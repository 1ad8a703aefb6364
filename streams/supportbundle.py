"""What somebody who helps needs to see of an installation, in one archive, without secrets.

Every text passes `streams.logs.redact`; no file of keys, events, alerts or state is read. What is in the
archive is listed in its README, so that it can be looked through before it is sent.
"""

from __future__ import annotations

import gzip
import io
import os
import platform
import sys
import tarfile
from importlib.metadata import distributions
from typing import TYPE_CHECKING, Any

import msgspec

from streams.bus.base import BusError
from streams.doctor import examine
from streams.errors import ModelwardenError
from streams.logs import redact
from streams.report import versions
from streams.settings import PREFIX, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from streams.settings import Settings

LOG_TAIL_BYTES = 512 * 1024
"""Of each log file, the end."""
_ABOUT = {
    "versions.json": "versions of this program, Python, its packages and the system",
    "doctor.json": "what `modelwarden doctor` found",
    "settings.json": "the settings in force, secrets left out",
    "variables.json": "names of the environment variables that concern this program; no values",
    "policy.json": "the policy in force: rules and version, without its exceptions' names",
    "topics.json": "what the topics are and how far they reach; no content",
    "metrics.txt": "what the worker's metrics endpoint said",
}
_FOREIGN = ("NUMBA_", "KAFKA_", "PYTHON")
"""Variables of others that change how this program behaves."""


def collect(
    settings_file: Path | None, environ: Mapping[str, str], logs: Iterable[Path] = ()
) -> dict[str, bytes]:
    """Return the archive's files by name. What cannot be had says why in its place."""
    files = {
        "versions.json": _json(_versions()),
        "doctor.json": _json(examine(settings_file, environ)),
        "variables.json": _json(sorted(n for n in environ if n.startswith((PREFIX, *_FOREIGN)))),
    }
    try:
        settings = load_settings(settings_file, environ)
    except ModelwardenError as error:
        files["settings.json"] = _json({"error": str(error)})
    else:
        files["settings.json"] = _json(msgspec.to_builtins(settings, enc_hook=str))
        files["policy.json"] = _try(lambda: _policy(settings))
        files["topics.json"] = _try(lambda: _topics(settings))
        files["metrics.txt"] = _metrics(settings)
    for path in logs:
        files[f"logs/{path.name}"] = _tail(path)
    files["README.txt"] = _readme(files)
    return files


def pack(files: Mapping[str, bytes]) -> bytes:
    """Pack files into a tar.gz; the same files give the same bytes."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in sorted(files):
            member = tarfile.TarInfo(f"modelwarden-support/{name}")
            member.size, member.mode = len(files[name]), 0o600
            archive.addfile(member, io.BytesIO(files[name]))
    return gzip.compress(packed.getvalue(), mtime=0)


def _json(value: Any) -> bytes:
    clean = redact(msgspec.to_builtins(value, enc_hook=str))
    return msgspec.json.format(msgspec.json.encode(clean, order="deterministic"), indent=1) + b"\n"


def _try(make: Callable[[], Any]) -> bytes:
    try:
        return _json(make())
    except (ModelwardenError, BusError, OSError) as error:
        return _json({"error": str(error)})


def _versions() -> dict[str, Any]:
    packages = {item.metadata["Name"]: item.version for item in distributions()}
    return {
        "program": versions(),
        "packages": dict(sorted(packages.items())),
        "system": {
            "platform": platform.platform(),
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "python": sys.version,
        },
    }


def _policy(settings: Settings) -> Any:
    from sinks.policyfile import load_policy  # noqa: PLC0415 - like everything here, on its own

    policy = load_policy(settings.policy_file, settings.policy_mode)
    return {
        "policy_version": policy.policy_version,
        "mode": policy.mode,
        "rules": policy.rules,
        "exceptions": len(policy.exceptions),
    }


def _topics(settings: Settings) -> Any:
    from streams.bus.kafka import KafkaBus  # noqa: PLC0415 - kafka-python is slow to import
    from streams.topics import check_topics  # noqa: PLC0415

    reports = check_topics(settings.kafka, security=settings.kafka_security, prefix=settings.topic_prefix)
    bus = KafkaBus(settings.kafka, timeout_s=5.0, security=settings.kafka_security)
    try:
        ends = {r.topic: bus.end_offsets(r.topic) for r in reports if r.ok}
    finally:
        bus.close()
    return [{**msgspec.structs.asdict(r), "end_offsets": ends.get(r.topic)} for r in reports]


def _metrics(settings: Settings) -> bytes:
    from streams.workerstats import scrape  # noqa: PLC0415 - see above

    if not settings.metrics.enabled:
        return b"metrics.enabled is false: nothing to ask.\n"
    address = f"{settings.metrics.host}:{settings.metrics.port}"
    text = scrape(address)
    return redact(text).encode() if text else f"nothing answered at {address}\n".encode()


def _tail(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - LOG_TAIL_BYTES, 0))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError as error:
        return f"{path}: {error.strerror}\n".encode()
    # A line that was cut in two may show half a secret, which no pattern knows.
    kept = lines[1:] if size > LOG_TAIL_BYTES else lines
    return str(redact("\n".join(kept))).encode() + b"\n"


def _readme(files: Mapping[str, bytes]) -> bytes:
    lines = ["Made by `modelwarden support bundle`. Look through it before you send it.", ""]
    lines += [f"{name}: {_ABOUT.get(name, 'the end of a log file, secrets left out')}" for name in files]
    lines += ["", "Not in it: keys, secrets, events, alerts, commands, state, values of variables."]
    return "\n".join(lines).encode() + b"\n"
