"""What deciding and people's words share: the state, the breaker, the allowlist, commands and notices.

`sinks.policy` decides on alerts with it, `sinks.review` does what people have decided. Not thread-safe.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import msgspec

from sinks.allowlist import find_cover
from sinks.breaker import Breaker
from sinks.errors import PolicyError
from sinks.policystate import PolicyState, Standing, decode_state, split_place
from sinks.records import Command, Decision, Mode, Notice
from sinks.rules import excuses_place

if TYPE_CHECKING:
    from sinks.breaker import Cause
    from sinks.policyfile import Policy
    from sinks.records import Allow
    from sinks.signing import Signer

ALLOWLIST_RULE = "allowlist"
"""Stands for the rule in what follows from the allowlist, or from an exception of the policy."""
_PRUNE_EVERY = 1024


class PolicyCore:
    """State and rules of conduct of one partition's policy engine.

    Parameters
    ----------
    policy : Policy
    signer : Signer or None
    partition, partitions : int
        Whose share of the breaker's limits this is.
    """

    def __init__(self, policy: Policy, signer: Signer | None, partition: int, partitions: int) -> None:
        self._signer = signer
        self.state = PolicyState()
        self.breaker = Breaker(policy.breaker, partition, partitions)
        self.breaker.state = self.state.breaker
        self.allowlist: tuple[Allow, ...] = ()
        self.notices: list[Notice] = []
        self.policy = policy
        self.set_policy(policy)

    @property
    def may_sign(self) -> bool:
        """Whether there is a signing key."""
        return self._signer is not None

    @property
    def is_breaker_open(self) -> bool:
        """Whether the breaker holds commands back, as of the newest event."""
        return self.breaker.state.tripped_ms is not None

    def set_policy(self, policy: Policy) -> None:
        """Replace the policy. Raises PolicyError, changing nothing, if it needs a signer there is not."""
        if policy.mode != "observe" and self._signer is None:
            raise PolicyError(
                f"policy {policy.version}, mode {policy.mode}",
                "commands must be signed and there is no signing key",
                "Set signing_key_file to a key made by `modelwarden policy keygen FILE`, or use mode observe",
            )
        self.policy = policy
        self.breaker.limits = policy.breaker

    def load(self, blob: bytes) -> None:
        """Replace the state by a dump. Raises PolicyStateError."""
        self.state = decode_state(blob)
        self.breaker.state = self.state.breaker

    def tick(self, time_ms: int) -> None:
        """Forget now and then what no longer matters; by count, so that a replay forgets alike."""
        state = self.state
        state.latest_ms = max(state.latest_ms, time_ms)
        state.decided += 1
        if state.decided % _PRUNE_EVERY == 0:
            state.prune(self.policy.forgiven_s)
        if self.is_breaker_open and not self.breaker.is_open(state.latest_ms):
            self.notify("breaker_closed", "info", "The breaker's time is over: commands leave again.")

    def idle(self, mode: Mode, key: str) -> str | None:
        """Say why no command may leave for a key, whatever the alert; None if one may."""
        if mode == "observe":
            return "mode observe"
        if mode == "canary" and share_of(key, "canary") >= self.policy.canary_share:
            return "mode canary, and the key is not in its share"
        if share_of(key, "holdout") < self.policy.holdout_share:
            return "holdout: this key is only ever observed"
        if self.is_breaker_open:
            return "the breaker has tripped: everything is only observed until it is reset"
        return None

    def admit(self, key: str, tenant: str | None, calls: float, time_ms: int) -> str | None:
        """Count a key that is to be cut off; say why the breaker refuses, if it does."""
        cause = self.breaker.admit(key, tenant, calls, time_ms)
        if cause is None:
            return None
        limits = self.policy.breaker
        sentence = (
            f"The breaker tripped by {cause}: within {limits.window_s} s at most {limits.max_keys} keys, "
            f"{limits.max_tenants} tenants and {limits.max_traffic_ratio:.0%} of calls may be cut off. "
            "Everything is only observed until it is reset."
        )
        self.notify("breaker_tripped", "page", sentence, time_ms=time_ms, cause=cause)
        return f"the breaker has tripped by {cause}: everything is only observed until it is reset"

    def restore_covered(self) -> list[Decision]:
        """Lift every command that the allowlist or an exception of the policy covers now."""
        decisions = []
        for at, standing in list(self.state.standing.items()):
            key, model = split_place(at)
            cover = self._cover(key, model, standing)
            if cover is None:
                continue
            del self.state.standing[at]
            if standing.commanded and standing.expires_ms > cover.time_ms:
                decisions.append(self._lift(key, model, standing, cover))
        for decision_id, pending in list(self.state.pending.items()):
            if find_cover(self.allowlist, pending.command, self.state.latest_ms) is not None:
                del self.state.pending[decision_id]
        return decisions

    def _cover(self, key: str, model: str, standing: Standing) -> _Cover | None:
        """Return by what a standing decision is covered, if it is."""
        held = Held(key, model, standing.tenant, standing.plan)
        for allow in self.allowlist:
            time_ms = max(self.state.latest_ms, allow.issued_ms)
            if find_cover((allow,), held, time_ms) is not None:
                return _Cover(allow.issued_ms, allow.allow_id, f"allowlist, {allow.purpose}: {allow.reason}")
        for item in self.policy.exceptions:
            if excuses_place(item, held, standing.families, standing.level, self.state.latest_ms):
                return _Cover(self.state.latest_ms, item.reason, f"exception of {item.owner}: {item.reason}")
        return None

    def _lift(self, key: str, model: str, standing: Standing, cover: _Cover) -> Decision:
        command = self.restoring(
            key=key,
            model=model,
            time_ms=cover.time_ms,
            alert_id=standing.alert_id,
            source=f"{standing.decision_id}/{cover.source}",
            rule=ALLOWLIST_RULE,
            reason=cover.reason,
        )
        return Decision(
            decision_id=make_id("decision", standing.decision_id, cover.source),
            alert_id=standing.alert_id,
            time_ms=cover.time_ms,
            key=key,
            model=model,
            rule=ALLOWLIST_RULE,
            policy_version=self.policy.policy_version,
            mode=self.policy.mode,
            action="restore",
            command=self.sign(command),
            tenant=standing.tenant,
            plan=standing.plan,
            follows=standing.decision_id,
        )

    def restoring(  # noqa: PLR0913 - a command has this many parts
        self,
        *,
        key: str,
        model: str | None,
        time_ms: int,
        alert_id: str,
        source: str,
        rule: str,
        reason: str,
    ) -> Command:
        """Return the command that lifts all that stands, unsigned."""
        return Command(
            command_id=make_id("command", alert_id, source),
            action="restore",
            key=key,
            model=model,
            issued_ms=time_ms,
            expires_ms=time_ms + 1000 * self.policy.forgiven_s,
            rule=rule,
            policy_version=self.policy.policy_version,
            alert_id=alert_id,
            reason=reason,
        )

    def sign(self, command: Command) -> Command:
        """Give a command the next sequence number and a signature."""
        if self._signer is None:  # set_policy has seen to it
            raise PolicyError("a command", "there is no signing key", "Set signing_key_file")
        # A state that begins anew goes on above the numbers of the one before: they rose from a time, too.
        before = self.state.sequence
        self.state.sequence = before + 1 if before else max(1, command.issued_ms)
        return self._signer.sign(msgspec.structs.replace(command, sequence=self.state.sequence))

    def notify(  # noqa: PLR0913 - a notice has this many parts
        self,
        kind: Any,
        severity: Any,
        sentence: str,
        *,
        decision_id: str | None = None,
        time_ms: int | None = None,
        cause: Cause | None = None,
    ) -> None:
        """Make a notice; once for the same thing."""
        at_ms = self.state.latest_ms if time_ms is None else time_ms
        partition = self.breaker.place[0]
        notice_id = make_id("notice", kind, str(partition), str(at_ms), decision_id or "")
        self.notices.append(
            Notice(
                notice_id=notice_id,
                time_ms=at_ms,
                kind=kind,
                severity=severity,
                partition=partition,
                sentence=sentence,
                cause=cause,
                decision_id=decision_id,
            )
        )


class _Cover(msgspec.Struct, frozen=True):
    """When, by what and why something is left alone from now on."""

    time_ms: int
    source: str
    reason: str


class Held(msgspec.Struct, frozen=True):
    """What an allowlist is asked about, where there is no alert or command."""

    key: str
    model: str | None
    tenant: str | None
    plan: str | None


def share_of(key: str, what: str) -> float:
    """Return where a key stands in [0, 1) for `canary` or `holdout`: the same for ever, in all policies."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8, person=f"mw-{what}".encode()).digest()) / 2**64


def make_id(what: str, *parts: str) -> str:
    """Derive 32 hex digits from what something is made of."""
    return blake2b("\x1f".join(parts).encode(), digest_size=16, person=f"mw-{what}".encode()).hexdigest()
