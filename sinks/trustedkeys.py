"""The public keys whose signatures are obeyed: for what, from when to when, for whom.

One YAML file, on every worker and every serving layer; `modelwarden policy trust` and `policy rotate-key`
keep it. While a key is rotated two of them overlap, so no command is refused on the way. Loaded by the
serving side: imports nothing heavy.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import Meta

from sinks.errors import SigningError
from sinks.records import Name  # noqa: TC001 - msgspec reads the annotations at run time
from sinks.signing import key_id, verify
from sinks.yamlfile import explain_form, read_config

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from sinks.signing import Signable, Signer

Purpose = Literal["commands", "policy", "operators"]
"""What a key may sign: a worker's commands; policies; what people decide (operator actions, allowlist)."""

PURPOSES: tuple[Purpose, ...] = ("commands", "policy", "operators")
_FOR_EVER = dt.datetime(9999, 12, 31, tzinfo=dt.UTC)
_CORRECT = "Correct or remove that field"


class TrustedKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One public key and what it may sign."""

    key_id: str = ""
    """For people; it follows from the key, and must."""

    public_key: Annotated[str, Meta(pattern=r"^[A-Za-z0-9+/]{43}=$")]
    """The 32 raw bytes, base64."""
    purposes: Annotated[tuple[Purpose, ...], Meta(min_length=1)]
    not_before: Annotated[dt.datetime, Meta(tz=True)]
    """Records issued from here on."""
    not_after: Annotated[dt.datetime, Meta(tz=True)] = _FOR_EVER
    """Records issued before that: what was signed in time holds to its own end, also over a restart."""
    tenants: tuple[Name, ...] = ()
    """The only tenants its commands may be about; none: all."""
    compromised: bool = False
    """Nothing that it ever signed holds."""
    note: str = ""

    @property
    def key(self) -> Ed25519PublicKey:
        """The key itself. Raises ValueError if the bytes are no key."""
        return Ed25519PublicKey.from_public_bytes(base64.b64decode(self.public_key, validate=True))

    def holds_at(self, issued_ms: int) -> bool:
        """Tell whether records issued at a time are within the key's own."""
        return 1000 * self.not_before.timestamp() <= issued_ms < 1000 * self.not_after.timestamp()


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: tuple[TrustedKey, ...]


class TrustedKeys:
    """The keys of one trusted-keys file, by key id.

    Parameters
    ----------
    keys : iterable of TrustedKey

    Raises
    ------
    SigningError
        If one is no Ed25519 key, or stands there twice.
    """

    def __init__(self, keys: Iterable[TrustedKey]) -> None:
        self.keys: dict[str, TrustedKey] = {}
        self._loaded: dict[str, Ed25519PublicKey] = {}
        for at, one in enumerate(keys):
            where = f"$.keys[{at}].public_key"
            try:
                loaded = one.key
            except (ValueError, binascii.Error) as error:
                raise SigningError("trusted keys", f"{where}: no Ed25519 public key", _CORRECT) from error
            name = key_id(loaded)
            if one.key_id not in {"", name}:
                raise SigningError("trusted keys", f"$.keys[{at}].key_id: this key's id is {name}", _CORRECT)
            if name in self.keys:
                raise SigningError("trusted keys", f"{where}: {name} stands there twice", "Keep one of them")
            self.keys[name] = msgspec.structs.replace(one, key_id=name)
            self._loaded[name] = loaded

    def verify(self, record: Signable, purpose: Purpose, issued_ms: int) -> TrustedKey:
        """Check that a trusted key has signed the record, for this purpose and in its time; return the key.

        Raises
        ------
        SigningError
            If not: the record is unsigned, forged or tampered with, or its key may not sign it.
        """
        trusted = self.keys.get(record.signing_key_id)
        verify(record, self._loaded)
        if trusted is None:  # verify has refused it
            raise AssertionError(record.signing_key_id)
        why = _unfit(trusted, purpose, issued_ms)
        if why is not None:
            do = "Discard it, or correct the trusted keys if its signer is yours"
            raise SigningError(f"signing key {record.signing_key_id}", why, do)
        return trusted

    def signers(self, purpose: Purpose) -> dict[str, Ed25519PublicKey]:
        """Return the keys that may sign for a purpose at some time and are not compromised, by key id."""
        return {
            name: self._loaded[name]
            for name, one in self.keys.items()
            if purpose in one.purposes and not one.compromised
        }


def _unfit(key: TrustedKey, purpose: Purpose, issued_ms: int) -> str | None:
    if key.compromised:
        return "it is marked as compromised"
    if purpose not in key.purposes:
        return f"it may sign {' and '.join(key.purposes)}, not {purpose}"
    if not key.holds_at(issued_ms):
        return f"the record is not from between {key.not_before} and {key.not_after}"
    return None


def make_trusted(
    public_key: Ed25519PublicKey,
    purposes: tuple[Purpose, ...],
    not_before: dt.datetime,
    *,
    tenants: tuple[str, ...] = (),
    note: str = "",
) -> TrustedKey:
    """Return a key as the file holds it."""
    raw = base64.b64encode(public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
    return TrustedKey(
        key_id=key_id(public_key),
        public_key=raw,
        purposes=purposes,
        not_before=not_before,
        tenants=tenants,
        note=note,
    )


def trust(signer: Signer | Ed25519PublicKey, purposes: tuple[Purpose, ...] = PURPOSES) -> TrustedKeys:
    """Trust one signer, for ever: a deployment with a single key needs no file."""
    public_key = signer if isinstance(signer, Ed25519PublicKey) else signer.public_key
    begin = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    return TrustedKeys([make_trusted(public_key, purposes, begin)])


def save_trusted_keys(path: Path, keys: Iterable[TrustedKey]) -> None:
    """Write a trusted-keys file anew, at once or not at all. Raises OSError."""
    lines = [
        "# Public keys whose signatures are obeyed; kept by `modelwarden policy trust` and `rotate-key`."
    ]
    lines.append(msgspec.yaml.encode({"keys": [_plain(key) for key in keys]}).decode())
    new = path.with_name(path.name + ".new")
    new.write_text("\n".join(lines), encoding="utf-8")
    new.replace(path)


def _plain(key: TrustedKey) -> dict[str, object]:
    return msgspec.to_builtins(key)  # type: ignore[no-any-return] # a mapping, by its type


def load_trusted_keys(path: Path) -> TrustedKeys:
    """Read a trusted-keys file.

    Raises
    ------
    FileFormatError, SigningError
        If it cannot be read, a field is wrong (the message names its path), or a key is none.
    """
    try:
        file = msgspec.convert(read_config(path), _File, strict=False)
    except msgspec.ValidationError as error:
        known = ("keys", *TrustedKey.__struct_fields__)
        raise SigningError(f"trusted keys {path}", explain_form(error, known), _CORRECT) from error
    return TrustedKeys(file.keys)
