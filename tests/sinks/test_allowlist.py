"""The allowlist: only what a trusted person signed last counts, and only until it ends."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from alerts import KEY, START_MS, make_alert
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sinks.allowlist import Allowlist, covers
from sinks.errors import SigningError
from sinks.records import Allow
from sinks.signing import Signer
from sinks.trustedkeys import trust

SIGNER = Signer(Ed25519PrivateKey.from_private_bytes(bytes(32)))


def allow(sequence: int = 1, **fields: Any) -> Allow:
    plain: dict[str, Any] = {
        "allow_id": "0" * 32,
        "tenants": ("acme",),
        "purpose": "evaluation",
        "owner": "ana",
        "reason": "a contract",
        "issued_ms": START_MS,
        "expires_ms": START_MS + 1000,
        "sequence": sequence,
    }
    return Allow(**(plain | fields))


def signed(one: Allow, signer: Signer = SIGNER) -> bytes:
    return msgspec.json.encode(signer.sign(one))


@pytest.mark.parametrize(
    ("fields", "covered"),
    [
        ({}, True),
        ({"keys": (KEY,)}, True),
        ({"tenants": (), "keys": ("k0-" + "b" * 32,)}, False),
        ({"plans": ("pro",)}, True),
        ({"plans": ("free",)}, False),
        ({"models": ("digits",)}, True),
        ({"models": ("chat",)}, False),
        ({"withdrawn": True}, False),
        ({"expires_ms": START_MS}, False),
        ({"tenants": ()}, False),
    ],
)
def test_every_list_given_must_hold(fields: dict[str, Any], covered: bool) -> None:  # noqa: FBT001 - a table
    alert = make_alert(tenant="acme", plan="pro")
    assert covers(allow(**fields), alert, START_MS) is covered
    assert not covers(allow(**fields), make_alert(tenant="other", plan="free", model="other"), START_MS)


def test_an_entry_is_replaced_withdrawn_and_never_brought_back_by_its_own_record() -> None:
    table = Allowlist(trust(SIGNER))
    first, second = allow(1), allow(2, allow_id="1" * 32, tenants=("umbrella",))
    table.take(signed(first))
    table.take(signed(second))
    assert table.find(make_alert(tenant="acme"), START_MS) is not None
    table.take(signed(allow(3, withdrawn=True)))
    assert table.find(make_alert(tenant="acme"), START_MS) is None
    for old in (first, second, allow(3)):
        with pytest.raises(SigningError, match="sent again, or late"):
            table.take(signed(old))
    assert [entry.allow_id for entry in table.entries] == ["1" * 32]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"junk", "malformed"),
        (msgspec.json.encode(allow(9)), "not signed by a trusted key"),
        (
            signed(allow(9), Signer(Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32))),
            "not signed by a trusted key",
        ),
        (signed(allow(9)).replace(b"acme", b"evil"), "signature does not hold"),
    ],
)
def test_what_nobody_trusted_has_signed_changes_nothing(value: bytes, why: str) -> None:
    table = Allowlist(trust(SIGNER))
    with pytest.raises(SigningError, match=why):
        table.take(value)
    assert (table.entries, table.sequence) == ((), -1)
