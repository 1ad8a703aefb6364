"""What a serving process is told once: where Kafka is, its secret, its signers, and what to do in doubt."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from sinks.errors import ModelwardenError, SigningError
from sinks.records import Action, Name  # noqa: TC001 - msgspec reads the annotations at run time
from sinks.serving.commands import DEFAULT_MAX_SKEW_MS
from sinks.serving.enforcer import DEFAULT_FAIL_OPEN, DEFAULT_STALE_S
from sinks.signing import key_id, load_public_key

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


class ServingSettingsError(ModelwardenError):
    """The settings of a serving process are not valid."""


class ServingSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything an operator may set. File names are taken from the working directory."""

    model: Name
    """Name of the served model, in events and in commands about it."""
    kafka: Annotated[str, Meta(pattern=r"^[^\s,]+:\d+(,[^\s,]+:\d+)*$")] = "127.0.0.1:9092"
    """Bootstrap servers, `host:port`, several separated by commas."""
    topic_prefix: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9._-]{0,128}$")] = "modelwarden."
    """Stands before the name of every topic, as at the workers."""
    key_secret_file: Path
    """Secret of the key references, the same in every serving process."""
    key_epoch: Annotated[int, Meta(ge=0, le=65_535)] = 0
    """Rotation epoch of the secret."""
    trusted_keys: Path
    """Public key of a signer, or a folder of `*.pub`; only their commands are obeyed."""
    tenants: tuple[Name, ...] | None = None
    """Tenants served here; commands about others are refused. None: all."""
    signer_tenants: dict[str, tuple[Name, ...]] = {}
    """By key id, the tenants a signer may speak for; a signer not named may speak for all."""
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
    queued_events: Annotated[int, Meta(ge=1)] = 10_000
    """Events kept while Kafka is away."""
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
    # Imported here: a process that makes its settings itself need not have a YAML parser.
    from sinks.yamlfile import explain_form, read_config  # noqa: PLC0415

    try:
        settings: ServingSettings = msgspec.convert(read_config(path), ServingSettings, dec_hook=_decode_path)
    except msgspec.ValidationError as error:
        why = explain_form(error, ServingSettings.__struct_fields__)
        raise ServingSettingsError(f"settings file {path}", why, "Correct or remove that field") from error
    return settings


def _decode_path(wanted: type, value: Any) -> Any:
    if wanted is not Path or not isinstance(value, str):
        raise TypeError(f"Expected `str`, got `{type(value).__name__}`")
    return Path(value)


def load_trusted_keys(path: Path) -> dict[str, Ed25519PublicKey]:
    """Read a public key, or every `*.pub` of a folder, by key id. Raises SigningError."""
    found = sorted(path.glob("*.pub")) if path.is_dir() else [path]
    if not found:
        raise SigningError(
            f"trusted keys {path}", "there is no *.pub, so no command would be obeyed", "Put one there"
        )
    keys = [load_public_key(file) for file in found]
    return {key_id(key): key for key in keys}
