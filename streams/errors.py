"""Errors of the streaming side. Each says what happened, why, and what the operator should do."""

from __future__ import annotations

from sinks.errors import FileFormatError, ModelwardenError, PolicyError, SigningError

__all__ = [
    "FileFormatError",
    "ModelwardenError",
    "PolicyError",
    "SettingsError",
    "SigningError",
    "StateVersionError",
    "TooManyDeadLetters",
]


class SettingsError(ModelwardenError):
    """A setting is misspelt, of the wrong type or out of range."""


class StateVersionError(ModelwardenError):
    """A state dump was written by another version, or is damaged."""


class TooManyDeadLetters(ModelwardenError):  # noqa: N818 - named for the state it reports, as operators read it
    """So much of the input cannot be decoded that going on would quietly discard it."""
