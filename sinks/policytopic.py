"""The policy as it stands on the compacted `policy` topic: signed, numbered, every version kept.

A version stands under its own number as the message key, so compaction removes none and any can be put in
force again. What is older than the newest that was accepted is refused, also when it is signed: going back is
a new version with old content (`modelwarden policy rollback`), made by a person.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from sinks.errors import PolicyError, SigningError
from sinks.policyfile import Policy, check_policy
from sinks.records import Allow, Int63, Mode, Name, TimeMs  # noqa: TC001 - msgspec reads the annotations
from sinks.yamlfile import explain_form

if TYPE_CHECKING:
    from sinks.trustedkeys import TrustedKeys

TOPIC = "policy"


class SignedPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One version of the policy."""

    schema: Literal[1] = 1
    sequence: Int63
    """Rises with every version."""
    issued_ms: TimeMs
    author: Name
    reason: Annotated[str, Meta(min_length=1, max_length=1000)]
    policy: Policy
    breaker_resets: Int63 = 0
    """Counts resets of the breaker by command; a higher count closes it."""
    rollback_to: Int63 | None = None
    """The earlier version whose content this is."""
    signing_key_id: str = ""
    signature: str = ""
    """Ed25519 over the canonical bytes of everything else (`sinks.signing`), base64."""

    @property
    def topic_key(self) -> bytes:
        """The message key it stands under."""
        return f"{self.sequence:012d}".encode()


class PolicyInForce(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything that partitions decide by, as of one moment; part of every snapshot."""

    policy: Policy
    sequence: int = -1
    """Of the signed version; -1: from a file."""
    author: str = ""
    reason: str = ""
    issued_ms: int = 0
    breaker_resets: int = 0
    allowlist: tuple[Allow, ...] = ()

    @property
    def policy_version(self) -> str:
        """The policy's version with its hash."""
        return self.policy.policy_version

    @property
    def mode(self) -> Mode:
        """The policy's mode."""
        return self.policy.mode


class PolicyChange(msgspec.Struct, frozen=True, kw_only=True):
    """What the audit chain says of a policy that was put in force."""

    policy_version: str
    mode: Mode
    sequence: int
    author: str
    reason: str
    breaker_resets: int


class PolicyLedger:
    """Accepts versions of the policy in order.

    Parameters
    ----------
    trusted : TrustedKeys
    """

    def __init__(self, trusted: TrustedKeys) -> None:
        self._trusted = trusted
        self._decoder = msgspec.json.Decoder(SignedPolicy)
        self.sequence = -1
        """Of the newest version accepted."""

    def take(self, value: bytes | None, source: str) -> SignedPolicy:
        """Read a version as it stands on the topic.

        Raises
        ------
        PolicyError, SigningError
            If it is no valid policy, is not signed by who may sign policies, was tampered with, or is older
            than one accepted already; the message says which.
        """
        if value is None:
            raise PolicyError(source, "it is a tombstone", "Publish a policy; the one in force stays")
        try:
            signed = self._decoder.decode(value)
        except msgspec.ValidationError as error:
            known = (*SignedPolicy.__struct_fields__, *Policy.__struct_fields__)
            raise PolicyError(source, explain_form(error, known), "Publish it with this version") from error
        except (msgspec.DecodeError, UnicodeError) as error:
            do = "Publish policies with `modelwarden policy push`, which signs them"
            raise PolicyError(source, "it is not a signed policy", do) from error
        self._trusted.verify(signed, "policy", signed.issued_ms)
        if signed.sequence <= self.sequence:
            why = f"version {signed.sequence} is not above {self.sequence}: it was sent again, or late"
            raise SigningError(source, why, "Use `modelwarden policy rollback` to go back on purpose")
        check_policy(signed.policy, source)
        self.sequence = signed.sequence
        return signed
