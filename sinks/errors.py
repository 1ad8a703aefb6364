"""Errors that an operator reads: what happened, why, and what to do, on one line."""

from __future__ import annotations


class ModelwardenError(Exception):
    """Something an operator can put right.

    Parameters
    ----------
    what : str
        What happened, with the path of the field, file or topic it happened to.
    why : str
        The cause, as closely as it is known.
    do : str
        What the operator should do about it.
    """

    def __init__(self, what: str, why: str, do: str) -> None:
        super().__init__(what, why, do)
        self.what = what
        self.why = why
        self.do = do

    def __str__(self) -> str:
        """Return the error as one line."""
        return " ".join(f"{self.what}: {self.why}. {self.do}.".split())


class PolicyError(ModelwardenError):
    """A policy file is not valid, or asks for what cannot be done."""


class SigningError(ModelwardenError):
    """A signing key is missing, unreadable or badly kept, or a signature does not hold."""


class FileFormatError(ModelwardenError):
    """A configuration file cannot be read or is not valid YAML or TOML."""
