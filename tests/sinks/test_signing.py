"""Signatures: hold for what was signed, for nothing else; keys stay private."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sinks.errors import SigningError
from sinks.records import Command
from sinks.signing import Signer, canonical_bytes, generate_key, load_public_key, load_signer, verify

if TYPE_CHECKING:
    from pathlib import Path

COMMAND = Command(
    command_id="0" * 32,
    action="throttle",
    key="k0-" + "a" * 32,
    model="digits",
    issued_ms=1_763_900_000_000,
    expires_ms=1_763_903_600_000,
    rule="warning-throttle",
    policy_version="default-1",
    alert_id="1" * 32,
    reason="Größe",
    parameters={"requests_per_minute": 60.0},
    sequence=4,
)
CHANGES: dict[str, Any] = {
    "schema": 2,
    "command_id": "2" * 32,
    "action": "restore",
    "key": "k0-" + "b" * 32,
    "model": None,
    "tenant": "acme",
    "issued_ms": 0,
    "expires_ms": 253_402_300_799_999,
    "rule": "other",
    "policy_version": "other",
    "alert_id": "3" * 32,
    "reason": "other",
    "parameters": {},
    "plan": "pro",
    "approved_by": "ana",
    "sequence": 5,
    "signing_key_id": "f" * 16,
    "signature": "AAAA",
}


@pytest.fixture
def signer() -> Signer:
    return Signer(Ed25519PrivateKey.generate())


def test_a_signature_holds_over_the_wire(signer: Signer) -> None:
    signed = signer.sign(COMMAND)
    received = msgspec.json.decode(msgspec.json.encode(signed), type=Command)
    verify(received, {signer.key_id: signer.public_key})
    assert msgspec.structs.replace(received, signing_key_id="", signature="") == COMMAND


@pytest.mark.parametrize("field", Command.__struct_fields__)
def test_no_field_can_be_changed(signer: Signer, field: str) -> None:
    forged = msgspec.structs.replace(signer.sign(COMMAND), **{field: CHANGES[field]})
    trusted = {signer.key_id: signer.public_key, "f" * 16: signer.public_key}
    with pytest.raises(SigningError, match="signature does not hold"):
        verify(forged, trusted)


def test_unsigned_and_untrusted_commands_are_refused(signer: Signer) -> None:
    with pytest.raises(SigningError, match="not signed by a trusted key"):
        verify(COMMAND, {signer.key_id: signer.public_key})
    with pytest.raises(SigningError, match="not signed by a trusted key"):
        verify(signer.sign(COMMAND), {})


def test_the_canonical_form_never_changes() -> None:
    assert canonical_bytes(COMMAND).decode() == (
        '{"action":"throttle","alert_id":"11111111111111111111111111111111",'
        '"command_id":"00000000000000000000000000000000","expires_ms":1763903600000,"issued_ms":1763900000000,'
        '"key":"k0-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","model":"digits","parameters":{"requests_per_minute":60.0},'
        '"policy_version":"default-1","reason":"Größe","rule":"warning-throttle","schema":1,"sequence":4'
        "}"
    )


def test_a_generated_key_is_private_and_signs(tmp_path: Path) -> None:
    path = tmp_path / "signing.pem"
    made = generate_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    signer = load_signer(path)
    assert signer.key_id == made
    assert len(made) == 16
    public = load_public_key(path.with_name("signing.pem.pub"))
    verify(signer.sign(COMMAND), {made: public})
    assert repr(signer) == f"Signer({made})"


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "signing.pem"
    generate_key(path)
    before = path.read_bytes()
    with pytest.raises(SigningError, match="exists and is not overwritten"):
        generate_key(path)
    assert path.read_bytes() == before


def test_bad_key_files_are_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "signing.pem"
    with pytest.raises(SigningError, match=r"cannot read key .*keygen"):
        load_signer(path)
    generate_key(path)
    path.chmod(0o644)
    with pytest.raises(SigningError, match="chmod 600"):
        load_signer(path)
    (tmp_path / "junk").write_text("junk", encoding="utf-8")
    (tmp_path / "junk").chmod(0o600)
    with pytest.raises(SigningError, match="not an unencrypted PEM private key"):
        load_signer(tmp_path / "junk")
    with pytest.raises(SigningError, match="not a PEM public key"):
        load_public_key(tmp_path / "junk")
