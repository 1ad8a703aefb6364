"""Key references: what stands for an API key everywhere outside the provider's own process."""

from __future__ import annotations

import hmac
import secrets
from hashlib import blake2b

MIN_SECRET_BYTES = 32
MAX_EPOCH = 0xFFFD
MAX_KNOWN = 16_384
"""References remembered, about three megabytes."""
LOAD_TEST_EPOCH = 0xFFFE
"""Of keys that a load test makes up: detected like others, silenced by their prefix `k65534-`."""


def key_reference(api_key: str | bytes, secret: bytes, epoch: int = 0) -> str:
    """Stand for an API key: `k<epoch>-<32 hex digits>`, HMAC-SHA256 cut to 128 bits.

    The epoch is part of what is hashed, so references of two epochs cannot be linked without the secret.

    Parameters
    ----------
    api_key : str or bytes
        The raw key; text is taken as UTF-8. It is not kept.
    secret : bytes
        The deployment's secret, at least 32 bytes; the same in every serving process.
    epoch : int
        Rotation epoch, 0 to 65533; raise it when the secret changes. The two above are no customer's.

    Raises
    ------
    ValueError
        If the key is empty, the secret short or the epoch out of range. No message repeats either.
    """
    if len(secret) < MIN_SECRET_BYTES:
        raise ValueError(f"the key secret must have at least {MIN_SECRET_BYTES} bytes, not {len(secret)}")
    if not 0 <= epoch <= MAX_EPOCH:
        raise ValueError(f"the epoch must lie in 0 to {MAX_EPOCH}, not {epoch}")
    raw = api_key.encode() if isinstance(api_key, str) else api_key
    if not raw:
        raise ValueError("the API key is empty")
    digest = hmac.digest(secret, b"mw-key-%d:" % epoch + raw, "sha256")
    return f"k{epoch}-{digest[:16].hex()}"


class KeyReferences:
    """Key references of one secret and epoch, the last ones remembered. Thread-safe.

    Not for the two microseconds of an HMAC: `hmac.digest` lets go of the interpreter, and a request that does
    waits for the other threads. What is remembered is found by a digest under a key of this process, so that
    no raw key is kept.

    Parameters
    ----------
    secret : bytes
        As for `key_reference`, whose errors a call raises.
    epoch : int
    """

    def __init__(self, secret: bytes, epoch: int = 0) -> None:
        self._secret = secret
        self._epoch = epoch
        self._digest_key = secrets.token_bytes(32)
        self._known: dict[bytes, str] = {}

    def __call__(self, api_key: str | bytes) -> str:
        """Return a key's reference."""
        raw = api_key.encode() if isinstance(api_key, str) else api_key
        digest = blake2b(raw, key=self._digest_key, digest_size=16).digest()
        known = self._known.get(digest)
        if known is None:
            known = key_reference(raw, self._secret, self._epoch)
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()  # whoever calls often is back at once
            self._known[digest] = known
        return known
