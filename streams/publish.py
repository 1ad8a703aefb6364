"""Publishing what people decide: policies, allowlist entries and words on keys, each signed and numbered.

Used by the command line. Numbers come from what stands on the topic; it is read back after writing, so of two
people who publish at the same moment one is told to look again.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import msgspec

from sinks import allowlist, policytopic
from sinks.allowlist import Allowlist
from sinks.policytopic import PolicyLedger, SignedPolicy
from streams.errors import ModelwardenError, PolicyError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sinks.policyfile import Policy
    from sinks.records import Allow, OperatorAction
    from sinks.signing import Signer
    from sinks.trustedkeys import TrustedKeys
    from streams.bus.base import Bus, Message
    from streams.settings import Settings


class PublishError(ModelwardenError):
    """What was to be published cannot be, or somebody was quicker."""


class PolicyHistory(msgspec.Struct, frozen=True, kw_only=True):
    """Every version of the policy that was accepted, oldest first, and what was refused."""

    versions: tuple[SignedPolicy, ...]
    refused: tuple[str, ...]

    @property
    def newest(self) -> SignedPolicy | None:
        """The one in force."""
        return self.versions[-1] if self.versions else None

    def find(self, sequence: int) -> SignedPolicy:
        """Return a version by its number. Raises PublishError."""
        for signed in self.versions:
            if signed.sequence == sequence:
                return signed
        known = ", ".join(str(signed.sequence) for signed in self.versions) or "none"
        raise PublishError(f"policy version {sequence}", f"there are {known}", "Name one of those")


class Publisher:
    """Writes signed records to a deployment's topics.

    Parameters
    ----------
    bus : Bus
    settings : Settings
        Name the topics.
    trusted : TrustedKeys
        Whose records count among those that stand there.
    """

    def __init__(self, bus: Bus, settings: Settings, trusted: TrustedKeys) -> None:
        self.bus = bus
        self._settings = settings
        self._trusted = trusted

    def history(self) -> PolicyHistory:
        """Read every version of the policy. Raises BusError."""
        ledger = PolicyLedger(self._trusted)
        versions, refused = [], []
        for message in self._read(policytopic.TOPIC):
            try:
                versions.append(ledger.take(message.value, _source(message)))
            except ModelwardenError as error:
                refused.append(str(error))
        return PolicyHistory(versions=tuple(versions), refused=tuple(refused))

    def policy(  # noqa: PLR0913 - a version has this many parts
        self,
        signer: Signer,
        policy: Policy,
        *,
        author: str,
        reason: str,
        now_ms: int,
        breaker_resets: int | None = None,
        rollback_to: int | None = None,
    ) -> SignedPolicy:
        """Publish a policy as the next version. Raises PublishError, SigningError, BusError."""
        newest = self.history().newest
        resets = breaker_resets if breaker_resets is not None else (newest.breaker_resets if newest else 0)
        signed = signer.sign(
            SignedPolicy(
                sequence=newest.sequence + 1 if newest else 1,
                issued_ms=now_ms,
                author=author,
                reason=reason,
                policy=policy,
                breaker_resets=resets,
                rollback_to=rollback_to,
            )
        )
        self._trusted.verify(signed, "policy", now_ms)
        self._write(policytopic.TOPIC, signed.topic_key, signed)
        if self.history().newest != signed:
            raise PublishError("the policy", "somebody published meanwhile", "Look, then try again")
        return signed

    def rollback(self, signer: Signer, sequence: int | None, **fields: Any) -> SignedPolicy:
        """Put an earlier version in force again, the one before if none is named. Raises as `policy`."""
        history = self.history()
        if sequence is None:
            if len(history.versions) < 2:
                why = "there is no version before the one in force"
                raise PublishError("policy rollback", why, "Push another policy instead")
            sequence = history.versions[-2].sequence
        target = history.find(sequence)
        return self.policy(signer, target.policy, rollback_to=sequence, **fields)

    def reset_breaker(self, signer: Signer, **fields: Any) -> SignedPolicy:
        """Publish the policy in force again, with one more reset of the breaker. Raises as `policy`."""
        newest = self.history().newest
        if newest is None:
            raise PolicyError(
                "the breaker",
                "no policy stands on the topic, and a reset is published with one",
                "Push the policy first (`modelwarden policy push`)",
            )
        return self.policy(signer, newest.policy, breaker_resets=newest.breaker_resets + 1, **fields)

    def allowlist(self) -> Allowlist:
        """Read the allowlist. Raises BusError."""
        table = Allowlist(self._trusted)
        for message in self._read(allowlist.TOPIC):
            try:
                table.take(message.value or b"")
            except ModelwardenError:
                continue
        return table

    def allow(self, signer: Signer, entry: Allow) -> Allow:
        """Publish an entry with the next number. Raises PublishError, SigningError, BusError."""
        sequence = self.allowlist().sequence + 1
        signed = signer.sign(msgspec.structs.replace(entry, sequence=sequence))
        self._trusted.verify(signed, "operators", signed.issued_ms)
        self._write(allowlist.TOPIC, signed.allow_id.encode(), signed)
        if self.allowlist().sequence != sequence:
            raise PublishError("the allowlist", "somebody changed it meanwhile", "Look, then try again")
        return signed

    def act(self, signer: Signer, action: OperatorAction) -> OperatorAction:
        """Publish what a person has decided about a key. Raises SigningError, BusError."""
        signed = signer.sign(action)
        self._trusted.verify(signed, "operators", signed.time_ms)
        self._write("feedback", signed.key.encode(), signed)
        return signed

    def _read(self, topic: str) -> Iterator[Message]:
        for batch in self.bus.read([self._settings.topic(topic)]):
            yield from batch

    def _write(self, topic: str, key: bytes, record: msgspec.Struct) -> None:
        self.bus.send(self._settings.topic(topic), msgspec.json.encode(record), key=key)
        self.bus.flush()


def new_id() -> str:
    """Return a fresh id of 32 hex digits, for what a person begins."""
    return secrets.token_hex(16)


def _source(message: Message) -> str:
    return f"the record at {message.topic}/{message.partition}/{message.offset}"
