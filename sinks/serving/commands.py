"""The commands in force, as one serving process knows them: verified, in order, never past their end.

Who calls it: `apply` and `expire`, the one thread that reads the commands topic; `lookup`, any thread, on the
path of every request. Nothing here blocks, does I/O or reads a clock. A lookup is a dict read: what it reads
is replaced as a whole and never changed in place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import msgspec

from sinks.errors import SigningError
from sinks.records import Action, Command
from sinks.serving.actions import ParameterError, TokenBucket, check_parameters
from sinks.signing import verify

if TYPE_CHECKING:
    from collections.abc import Collection

    from sinks.allowlist import Allowlist
    from sinks.trustedkeys import TrustedKeys

MAX_COMMAND_BYTES = 64 * 1024
"""A command is about one kilobyte; what is larger is refused unread."""
DEFAULT_MAX_SKEW_MS = 30_000

Refusal = Literal[
    "malformed",
    "untrusted_key",
    "bad_signature",
    "foreign_tenant",
    "issued_ahead",
    "replayed",
    "superseded",
    "expired",
    "unsupported",
    "allowlisted",
]
"""Why a command is not obeyed; a metric's label, so the list is short and closed.

malformed: no command record. untrusted_key: signed by nobody who is trusted here, or outside the key's time.
bad_signature: forged or tampered with. foreign_tenant: about a tenant that is not served here, or that its
signer may not speak for. issued_ahead: from further in the future than clocks may differ. replayed: its
sequence number is below one seen for the key. superseded: made before the key was restored. expired: its time
is over. unsupported: parameters that its action does not know. allowlisted: no command may touch the key.
"""
Outcome = Literal["enforced", "repeated", "expired", "refused"]

_RANK: dict[str, int] = {action: rank for rank, action in enumerate(get_args(Action))}


class Standing:
    """One command in force, ready to be obeyed."""

    __slots__ = ("action", "bucket", "command", "expires_ms")

    def __init__(self, command: Command, bucket: TokenBucket | None) -> None:
        self.command = command
        self.action = command.action
        self.expires_ms = command.expires_ms
        self.bucket = bucket
        """Of a throttle, else None; it is this process's own share."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a record of the commands topic."""

    outcome: Outcome
    refusal: Refusal | None = None
    command: Command | None = None
    """None if the record is not a command that somebody trusted has signed: nothing in it can be believed."""
    lifted: tuple[Command, ...] = ()
    """Commands that this one, a restore, ended; or that it replaced."""


class _Seen(msgspec.Struct):
    """The newest command for a key."""

    sequence: int
    command_id: str
    expires_ms: int
    """Of the longest; once it is over, a replay is refused as expired and this can be forgotten."""


class CommandTable:
    """Takes commands as they stand on the topic and tells what is in force for a key.

    Parameters
    ----------
    trusted : TrustedKeys
        Who may sign commands, from when to when, about whom.
    tenants : collection of str, optional
        Tenants served here; None: all, and commands that name none.
    max_skew_ms : int
        How far a signer's clock may be ahead of ours.
    instances : int
        Serving processes that share a key's calls: a throttle gives each its share.
    allowlist : Allowlist, optional
        Keys that no command touches, also not one that stands already.
    """

    def __init__(
        self,
        trusted: TrustedKeys,
        *,
        tenants: Collection[str] | None = None,
        max_skew_ms: int = DEFAULT_MAX_SKEW_MS,
        instances: int = 1,
        allowlist: Allowlist | None = None,
    ) -> None:
        self.released: frozenset[str] = frozenset()
        """Actions that lapse for now, since nobody can tell whether they still hold."""
        self._tenants = None if tenants is None else frozenset(tenants)
        self._max_skew_ms = max_skew_ms
        self._instances = instances
        self._allowlist = allowlist
        self._standing: dict[str, dict[str | None, Standing]] = {}
        self._seen: dict[str, _Seen] = {}
        self._restored_ms: dict[tuple[str, str | None], tuple[int, int]] = {}
        self._decoder = msgspec.json.Decoder(Command)
        self.trust(trusted)

    def trust(self, trusted: TrustedKeys) -> None:
        """Go on with other keys; what a key has signed that is trusted no more ends at once."""
        self._trusted = trusted
        self._signers = trusted.signers("commands")
        for key, places in list(self._standing.items()):
            kept = {p: s for p, s in places.items() if s.command.signing_key_id in self._signers}
            if len(kept) < len(places):
                self._put(key, kept)

    def __len__(self) -> int:
        """Count the commands that stand."""
        return sum(map(len, self._standing.values()))

    def lookup(self, key: str, model: str | None, tenant: str | None, now_ms: int) -> tuple[Standing, ...]:
        """Return what is in force for a call, the strongest first; for most calls nothing.

        A command about a tenant does not hold for a call of another.
        """
        places = self._standing.get(key)
        if places is None:
            return ()
        found = [
            standing
            for place, standing in places.items()
            if (place is None or place == model)
            and now_ms < standing.expires_ms
            and standing.action not in self.released
            and (standing.command.tenant is None or tenant is None or standing.command.tenant == tenant)
            and not self._is_allowlisted(standing.command, now_ms)
        ]
        found.sort(key=lambda standing: -_RANK[standing.action])
        return tuple(found)

    def standing(self) -> list[Command]:
        """List the commands that stand."""
        return [standing.command for places in self._standing.values() for standing in places.values()]

    def apply(self, value: bytes | None, now_ms: int) -> Verdict:
        """Take a record of the topic: verify it, and obey it if it is in order."""
        command = self._decode(value)
        if command is None:
            return Verdict(outcome="refused", refusal="malformed")
        if command.signing_key_id not in self._signers:
            return Verdict(outcome="refused", refusal="untrusted_key")
        try:
            verify(command, self._signers)
        except SigningError:
            return Verdict(outcome="refused", refusal="bad_signature")
        if not self._trusted.keys[command.signing_key_id].holds_at(command.issued_ms):
            return Verdict(outcome="refused", refusal="untrusted_key")
        return self._obey(command, now_ms)

    def _is_allowlisted(self, command: Command, now_ms: int) -> bool:
        return self._allowlist is not None and self._allowlist.find(command, now_ms) is not None

    def _decode(self, value: bytes | None) -> Command | None:
        if not value or len(value) > MAX_COMMAND_BYTES:
            return None
        try:
            return self._decoder.decode(value)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return None

    def _obey(self, command: Command, now_ms: int) -> Verdict:
        refusal = self._foreign(command)
        if refusal is None and command.issued_ms > now_ms + self._max_skew_ms:
            refusal = "issued_ahead"
        if refusal is not None:
            return Verdict(outcome="refused", refusal=refusal, command=command)
        seen = self._seen.get(command.key)
        if seen is not None and command.sequence <= seen.sequence:
            if command.command_id == seen.command_id:
                return Verdict(outcome="repeated", command=command)
            return Verdict(outcome="refused", refusal="replayed", command=command)
        longest_ms = max(command.expires_ms, seen.expires_ms if seen else 0)
        self._seen[command.key] = _Seen(command.sequence, command.command_id, longest_ms)
        refusal = self._unfit(command, now_ms)
        if refusal == "expired":  # too late to be obeyed, but it took the place of what stood before it
            return Verdict(outcome="expired", refusal=refusal, command=command, lifted=self._clear(command))
        if refusal is not None:
            return Verdict(outcome="refused", refusal=refusal, command=command)
        return Verdict(outcome="enforced", command=command, lifted=self._install(command))

    def _foreign(self, command: Command) -> Refusal | None:
        allowed = self._trusted.keys[command.signing_key_id].tenants
        is_served = self._tenants is None or command.tenant is None or command.tenant in self._tenants
        return None if is_served and (not allowed or command.tenant in allowed) else "foreign_tenant"

    def _unfit(self, command: Command, now_ms: int) -> Refusal | None:
        if command.expires_ms <= now_ms:
            return "expired"
        if command.action == "restore":
            return None
        for place in (None, command.model):
            if command.issued_ms < self._restored_ms.get((command.key, place), (0, 0))[0]:
                return "superseded"
        try:
            check_parameters(command.action, command.parameters)
        except ParameterError:
            return "unsupported"
        return "allowlisted" if self._is_allowlisted(command, now_ms) else None

    def _install(self, command: Command) -> tuple[Command, ...]:
        """Put a command in force in place of what stood; a restore only ends."""
        places = dict(self._standing.get(command.key, {}))
        if command.action == "restore":
            self._restored_ms[command.key, command.model] = (command.issued_ms, command.expires_ms)
            ended = [p for p in places if command.model is None or p == command.model]
            lifted = tuple(places.pop(place).command for place in ended)
        else:
            replaced = places.get(command.model)
            lifted = () if replaced is None else (replaced.command,)
            bucket = replaced.bucket if replaced is not None else None
            places[command.model] = Standing(command, self._bucket(command, bucket))
        self._put(command.key, places)
        return lifted

    def _clear(self, command: Command) -> tuple[Command, ...]:
        """End what stands where a command stood that is over."""
        places = dict(self._standing.get(command.key, {}))
        replaced = places.pop(command.model, None)
        if replaced is None:
            return ()
        self._put(command.key, places)
        return (replaced.command,)

    def _bucket(self, command: Command, before: TokenBucket | None) -> TokenBucket | None:
        """Make a throttle's bucket; one at the same rate goes on, so that a repeat refills nothing."""
        if command.action != "throttle":
            return None
        rate = command.parameters["requests_per_minute"] / self._instances
        return before if before is not None and before.requests_per_minute == rate else TokenBucket(rate)

    def _put(self, key: str, places: dict[str | None, Standing]) -> None:
        if places:
            self._standing[key] = places
        else:
            self._standing.pop(key, None)

    def expire(self, now_ms: int) -> list[Command]:
        """Drop what is over, and return the commands that were in force until now."""
        over: list[Command] = []
        for key, places in list(self._standing.items()):
            ended = [place for place, standing in places.items() if standing.expires_ms <= now_ms]
            if ended:
                over += [places[place].command for place in ended]
                self._put(key, {place: s for place, s in places.items() if place not in ended})
        oldest_ms = now_ms - self._max_skew_ms
        self._seen = {key: seen for key, seen in self._seen.items() if seen.expires_ms > oldest_ms}
        self._restored_ms = {p: times for p, times in self._restored_ms.items() if times[1] > oldest_ms}
        return over
