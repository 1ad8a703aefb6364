"""Trusted keys: what they sign holds for its purpose and time only; the file is read strictly."""

from __future__ import annotations

import base64
import datetime as dt
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sinks.errors import SigningError
from sinks.records import Allow
from sinks.signing import Signer
from sinks.trustedkeys import TrustedKey, TrustedKeys, load_trusted_keys, trust

if TYPE_CHECKING:
    from pathlib import Path

DAY_MS = 86_400_000
SIGNER = Signer(Ed25519PrivateKey.from_private_bytes(bytes(32)))
OTHER = Signer(Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32))
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
START_MS = int(START.timestamp() * 1000)


def public(signer: Signer) -> str:
    return base64.b64encode(signer.public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()


def trusted(signer: Signer = SIGNER, **fields: Any) -> TrustedKey:
    plain: dict[str, Any] = {
        "public_key": public(signer),
        "purposes": ("operators",),
        "not_before": START,
        "not_after": START + dt.timedelta(days=2),
    }
    return TrustedKey(**(plain | fields))


def record(issued_ms: int = START_MS) -> Allow:
    return Allow(
        allow_id="0" * 32,
        tenants=("acme",),
        purpose="evaluation",
        owner="ana",
        reason="a contract",
        issued_ms=issued_ms,
        expires_ms=issued_ms + DAY_MS,
        sequence=1,
    )


@pytest.mark.parametrize(
    ("key", "days", "why"),
    [
        (trusted(), 0, None),
        (trusted(), 1.999, None),
        (trusted(), 2, "not from between"),
        (trusted(), -0.001, "not from between"),
        (trusted(compromised=True), 0, "compromised"),
        (trusted(purposes=("commands", "policy")), 0, "may sign commands and policy, not operators"),
        (trusted(OTHER), 0, "not signed by a trusted key"),
    ],
)
def test_a_key_signs_for_its_purpose_and_in_its_time(key: TrustedKey, days: float, why: str | None) -> None:
    issued_ms = START_MS + int(days * DAY_MS)
    signed = SIGNER.sign(record(issued_ms))
    if why is None:
        assert TrustedKeys([key]).verify(signed, "operators", issued_ms).public_key == key.public_key
    else:
        with pytest.raises(SigningError, match=why):
            TrustedKeys([key]).verify(signed, "operators", issued_ms)


def test_both_keys_hold_while_they_overlap_and_a_forged_record_never() -> None:
    keys = TrustedKeys([trusted(), trusted(OTHER, not_before=START + dt.timedelta(days=1))])
    issued_ms = START_MS + DAY_MS
    for signer in (SIGNER, OTHER):
        signed = signer.sign(record(issued_ms))
        keys.verify(signed, "operators", issued_ms)
        with pytest.raises(SigningError, match="signature does not hold"):
            keys.verify(msgspec.structs.replace(signed, owner="bob"), "operators", issued_ms)
    assert set(keys.signers("operators")) == {SIGNER.key_id, OTHER.key_id}
    assert keys.signers("commands") == {}


def test_one_signer_may_be_trusted_without_a_file() -> None:
    assert trust(SIGNER).verify(SIGNER.sign(record()), "policy", START_MS).key_id == SIGNER.key_id


def test_the_file_is_read_strictly(tmp_path: Path) -> None:
    path = tmp_path / "trusted.yaml"
    fields = (f"public_key: {public(SIGNER)}", "purposes: [commands]", "not_before: 2026-01-01T00:00:00Z")
    good = "keys:\n  - " + "\n    ".join(fields) + "\n"
    path.write_text(good, encoding="utf-8")
    assert list(load_trusted_keys(path).keys) == [SIGNER.key_id]
    for text, why in (
        (good.replace("purposes", "purpose"), r"\$\.keys\[0\]\.purpose: no such field, perhaps `purposes`"),
        (good.replace("commands", "command"), r"\$\.keys\[0\]\.purposes\[0\]"),
        (good.replace("T00:00:00Z", ""), r"\$\.keys\[0\]\.not_before"),
        (good.replace(public(SIGNER), "AAAA"), r"\$\.keys\[0\]\.public_key"),
        (good + good.partition("\n")[2], "stands there twice"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(SigningError, match=why):
            load_trusted_keys(path)
