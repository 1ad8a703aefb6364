"""What a serving process is told once: where Kafka is, its secret, its signers, and what to do in doubt."""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from sinks.errors import ModelwardenError
from sinks.kafkasecurity import KafkaSecurity
from sinks.records import Action, Name  # noqa: TC001 - msgspec reads the annotations at run time
from sinks.serving.commands import DEFAULT_MAX_SKEW_MS
from sinks.serving.emitter import DEFAULT_QUEUED_BYTES
from sinks.serving.enforcer import DEFAULT_FAIL_OPEN, DEFAULT_STALE_S
from sinks.signing import load_public_key
from sinks.trustedkeys import TrustedKeys, load_trusted_keys, trust
from sinks.yamlfile import explain_form, read_config

_log = logging.getLogger(__name__)


class ServingSettingsError(ModelwardenError):
    """The settings of a serving process are not valid."""


class ServingSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything an operator may set. File names are taken from the working directory."""

    model: Name
    """Name of the served model, in events and in commands about it."""
    kafka: Annotated[str, Meta(pattern=r"^[^\s,]+:\d+(,[^\s,]+:\d+)*$")] = "127.0.0.1:9092"
    """Bootstrap servers, `host:port`, several separated by commas."""
    kafka_security: KafkaSecurity = KafkaSecurity()
    topic_prefix: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9._-]{0,128}$")] = "modelwarden."
    """Stands before the name of every topic, as at the workers."""
    key_secret_file: Path
    """Secret of the key references, the same in every serving process."""
    key_epoch: Annotated[int, Meta(ge=0, le=65_535)] = 0
    """Rotation epoch of the secret."""
    trusted_keys: Path
    """The trusted-keys file (`sinks.trustedkeys`), read again when it changes; or `*.pub`, the public key of
    the one signer there is."""
    tenants: tuple[Name, ...] | None = None
    """Tenants served here; commands about others are refused. None: all."""
    name: Name | None = None
    """Of this process in its acknowledgements, the same after a restart. None: the host's name."""
    instances: Annotated[int, Meta(ge=1)] = 1
    """Processes that share a key's calls; each throttles to its share."""
    fail_open: frozenset[Action] = DEFAULT_FAIL_OPEN  # type: ignore[assignment]
    """Actions that lapse when Kafka has not answered for `stale_s`; the others go on to their end."""
    stale_s: Annotated[float, Meta(gt=0)] = DEFAULT_STALE_S
    """Without word from Kafka for so long, commands count as stale."""
    start_closed: bool = False
    """Refuse calls (503) until the commands have been read once. False: serve meanwhile."""
    max_skew_ms: Annotated[int, Meta(ge=0, le=3_600_000)] = DEFAULT_MAX_SKEW_MS
    """How far a command's time of issue may lie ahead of the clock here."""
    emit: bool = True
    """Send an event for each observed call."""
    queued_bytes: Annotated[int, Meta(ge=2**20)] = DEFAULT_QUEUED_BYTES
    """Memory for events while Kafka is slow or away: 50,000 by default. From half of it on sketches are left
    out; when it is full, events are dropped."""
    contact: str | None = None
    """Told to whoever is refused: where to ask why."""

    @property
    def enforcer_name(self) -> str:
        """Name of this process in its acknowledgements."""
        return self.name or socket.gethostname()

    def topic(self, name: str) -> str:
        """Return a topic's full name."""
        return f"{self.topic_prefix}{name}"


def load_serving_settings(path: Path) -> ServingSettings:
    """Read the settings from a YAML or TOML file.

    Raises
    ------
    ServingSettingsError
        If a field is unknown, missing or wrong; the message names its path.
    FileFormatError
        If the file cannot be read or parsed.
    """
    try:
        settings: ServingSettings = msgspec.convert(read_config(path), ServingSettings, dec_hook=_decode_path)
    except msgspec.ValidationError as error:
        why = explain_form(error, (*ServingSettings.__struct_fields__, *KafkaSecurity.__struct_fields__))
        raise ServingSettingsError(f"settings file {path}", why, "Correct or remove that field") from error
    return settings


def _decode_path(wanted: type, value: Any) -> Any:
    if wanted is not Path or not isinstance(value, str):
        raise TypeError(f"Expected `str`, got `{type(value).__name__}`")
    return Path(value)


def read_trusted_keys(path: Path) -> TrustedKeys:
    """Read a trusted-keys file, or the public key of the one signer there is. Raises ModelwardenError."""
    return trust(load_public_key(path)) if path.suffix == ".pub" else load_trusted_keys(path)


class WatchedKeys:
    """A trusted-keys file that may change while it is used.

    Parameters
    ----------
    path : Path

    Raises
    ------
    ModelwardenError
        If it cannot be used at the start. Later, a change that cannot is logged, and the keys stay.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_at = self._stamp()
        self.keys = read_trusted_keys(path)

    def changed(self) -> TrustedKeys | None:
        """Return the keys if the file has changed since they were last returned."""
        stamp = self._stamp()
        if stamp == self._read_at:
            return None
        self._read_at = stamp
        try:
            self.keys = read_trusted_keys(self._path)
        except ModelwardenError as error:
            _log.error("the trusted keys stay as they were: %s", error)
            return None
        return self.keys

    def _stamp(self) -> tuple[int, int] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size
