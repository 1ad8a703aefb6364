"""Whose signatures this deployment obeys, by its settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sinks.signing import load_signer
from sinks.trustedkeys import load_trusted_keys, trust

if TYPE_CHECKING:
    from sinks.trustedkeys import TrustedKeys
    from streams.settings import Settings


def trusted_keys(settings: Settings) -> TrustedKeys | None:
    """Return the keys of the trusted-keys file, else the worker's own, else None.

    Raises
    ------
    FileFormatError, SigningError
        If a file cannot be used.
    """
    if settings.trusted_keys_file is not None:
        return load_trusted_keys(settings.trusted_keys_file)
    return None if settings.signing_key_file is None else trust(load_signer(settings.signing_key_file))
