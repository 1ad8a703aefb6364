"""Ed25519 signatures on commands and on what people decide, so that only this deployment can act on a key.

What is signed is a record's canonical form: JSON with fields in alphabetical order, no white space, UTF-8,
without `signature` and without fields that have their default (so that a later version, which knows more
fields, verifies what an earlier one has signed). A private key lives in one file that others cannot read, or
in a variable, and is never printed or logged.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import stat
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from sinks.errors import SigningError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Record = TypeVar("Record", bound=msgspec.Struct)

_KEYGEN = "Make one with `modelwarden policy keygen FILE`"


def canonical_bytes(record: msgspec.Struct | Signable) -> bytes:
    """Return what is signed: everything that is not default, but the signature, always in the same form."""
    fields = {
        name: value
        for name, default in _fields(type(record))
        if (value := getattr(record, name)) != default or name == "schema"
    }
    return msgspec.json.encode(fields, order="sorted")


@lru_cache(maxsize=32)
def _fields(record_type: Any) -> tuple[tuple[str, Any], ...]:
    """Return the names and defaults of the fields that are signed."""
    return tuple(
        (field.encode_name, field.default if field.default_factory is msgspec.NODEFAULT else {})
        for field in msgspec.structs.fields(record_type)
        if field.name != "signature"
    )


def key_id(public_key: Ed25519PublicKey) -> str:
    """Return the first 16 hex digits of the SHA-256 of the raw public key."""
    return hashlib.sha256(public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]


class Signable(Protocol):
    """A record that carries its signature; a frozen `msgspec.Struct`."""

    @property
    def signing_key_id(self) -> str:
        """Id of the key that signed."""

    @property
    def signature(self) -> str:
        """Base64, over the canonical bytes."""


class Signer:
    """Signs with one private key."""

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self._private_key = private_key
        self.key_id = key_id(private_key.public_key())

    def __repr__(self) -> str:
        """Name the key by its id only."""
        return f"Signer({self.key_id})"

    @property
    def public_key(self) -> Ed25519PublicKey:
        """The key that verifies."""
        return self._private_key.public_key()

    def sign(self, record: Record) -> Record:
        """Return the record with this signer's key id and signature."""
        named = msgspec.structs.replace(record, signing_key_id=self.key_id, signature="")
        signature = base64.b64encode(self._private_key.sign(canonical_bytes(named))).decode("ascii")
        return msgspec.structs.replace(named, signature=signature)


def verify(record: Signable, public_keys: Mapping[str, Ed25519PublicKey]) -> None:
    """Check a record's signature against the keys trusted, by key id.

    Raises
    ------
    SigningError
        If the record is unsigned, its key is not trusted or its signature does not hold.
    """
    what = _describe(record)
    public_key = public_keys.get(record.signing_key_id)
    if public_key is None:
        raise SigningError(
            what, "it is not signed by a trusted key", "Add the signer's public key, if it is yours"
        )
    try:
        signature = base64.b64decode(record.signature, validate=True)
        if base64.b64encode(signature).decode("ascii") != record.signature:
            raise ValueError("another spelling of the same bytes")  # noqa: TRY301 - one error for all of them
        public_key.verify(signature, canonical_bytes(record))
    except (InvalidSignature, binascii.Error, ValueError) as error:
        raise SigningError(
            what, "its signature does not hold", "Discard it and look for who sent it"
        ) from error


def _describe(record: Signable) -> str:
    """Name a record by its kind and id: `command 01ab...`, `signed policy 7`."""
    kind = re.sub(r"(?<!^)(?=[A-Z])", " ", type(record).__name__).lower()
    for name in ("command_id", "action_id", "allow_id", "sequence"):
        if hasattr(record, name):
            return f"{kind} {getattr(record, name)}"
    return kind


def generate_key(path: Path) -> str:
    """Write a new private key to `path` (mode 0600) and its public key to `path`.pub; return the key id.

    Raises
    ------
    SigningError
        If either file exists already or cannot be written.
    """
    private_key = Ed25519PrivateKey.generate()
    public_key = private_key.public_key()
    private_pem = private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public_pem = public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    _write_new(path, private_pem, 0o600)
    _write_new(path.with_name(path.name + ".pub"), public_pem, 0o644)
    return key_id(public_key)


def _write_new(path: Path, content: bytes, mode: int) -> None:
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:  # noqa: PTH123 - exclusive, with a mode
            file.write(content)
            os.fsync(file.fileno())
    except OSError as error:
        why = (
            "it exists and is not overwritten" if isinstance(error, FileExistsError) else str(error.strerror)
        )
        raise SigningError(
            f"cannot write {path}", why, "Choose another path, or move the old key away"
        ) from error


def load_signer(path: Path) -> Signer:
    """Read a private key.

    Raises
    ------
    SigningError
        If the file cannot be read, others may read it, or it holds no Ed25519 private key.
    """
    content = _read(path)
    if path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        raise SigningError(
            f"signing key {path}", "any user of this machine may read it", f"Run `chmod 600 {path}`"
        )
    return signer_from_pem(content, f"signing key {path}")


def signer_from_pem(content: bytes, source: str) -> Signer:
    """Take a private key from PEM, out of a file or a variable; `source` names it in errors.

    Raises
    ------
    SigningError
        If it is no unencrypted Ed25519 private key.
    """
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SigningError(source, "it is not an unencrypted PEM private key", _KEYGEN) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SigningError(source, "it is not an Ed25519 key", _KEYGEN)
    return Signer(key)


def load_public_key(path: Path) -> Ed25519PublicKey:
    """Read a public key.

    Raises
    ------
    SigningError
        If the file cannot be read or holds no Ed25519 public key.
    """
    try:
        key = load_pem_public_key(_read(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SigningError(f"public key {path}", "it is not a PEM public key", _KEYGEN) from error
    if not isinstance(key, Ed25519PublicKey):
        raise SigningError(f"public key {path}", "it is not an Ed25519 key", _KEYGEN)
    return key


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SigningError(f"cannot read key {path}", str(error.strerror), _KEYGEN) from error
