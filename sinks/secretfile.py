"""The secret of the key references, from its file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sinks.errors import ModelwardenError
from sinks.serving.keyref import MIN_SECRET_BYTES

if TYPE_CHECKING:
    from pathlib import Path


def read_key_secret(path: Path) -> bytes:
    """Read the secret of the key references; a line feed at the end does not count.

    Raises
    ------
    ModelwardenError
        If it is shorter than a secret must be. OSError if it cannot be read.
    """
    secret = path.read_bytes().rstrip(b"\r\n")
    if len(secret) < MIN_SECRET_BYTES:
        why = f"{len(secret)} bytes, and a key secret has at least {MIN_SECRET_BYTES}"
        raise ModelwardenError(str(path), why, "Make one with `openssl rand -hex 32`")
    return secret
