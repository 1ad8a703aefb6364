"""Commands for tests: made, signed and encoded."""

from __future__ import annotations

from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sinks.records import Command
from sinks.signing import Signer
from sinks.trustedkeys import trust

NOW_MS = 1_763_900_000_000
KEY = "k0-" + "a" * 32
OTHER_KEY = "k0-" + "b" * 32
SIGNER = Signer(Ed25519PrivateKey.generate())
TRUSTED = trust(SIGNER)


def make_command(**fields: Any) -> Command:
    """A suspension of KEY for an hour, but for the fields given."""
    sequence = fields.get("sequence", 1)
    return Command(
        **{
            "command_id": f"{sequence:032x}",
            "action": "suspend",
            "key": KEY,
            "model": "digits",
            "issued_ms": NOW_MS,
            "expires_ms": NOW_MS + 3_600_000,
            "rule": "critical-suspend",
            "policy_version": "test-1",
            "alert_id": "f" * 32,
            "reason": "It asks far from what the model is asked.",
            "sequence": sequence,
            **fields,
        }
    )


def signed(signer: Signer = SIGNER, **fields: Any) -> bytes:
    """Encoded as it stands on the topic."""
    return msgspec.json.encode(signer.sign(make_command(**fields)))
