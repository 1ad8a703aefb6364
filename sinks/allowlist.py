"""The allowlist: which keys no command touches, as the newest signed records say.

Held twice: by the policy engine against decisions, and by serving layers against commands, each from the
compacted `allowlist` topic (one partition). A record is taken only if it is signed by a key trusted for
operators and its sequence is above all before it: an old record that is sent again changes nothing.
Loaded by the serving side: imports nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from sinks.errors import SigningError
from sinks.records import Allow

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sinks.trustedkeys import TrustedKeys

TOPIC = "allowlist"


class Covered(Protocol):
    """What an allowlist may cover: an alert, a decision, a command."""

    @property
    def key(self) -> str:
        """The key's reference."""

    @property
    def model(self) -> str | None:
        """None: all models of the key."""

    @property
    def tenant(self) -> str | None:
        """None: unknown."""

    @property
    def plan(self) -> str | None:
        """None: unknown."""


def covers(allow: Allow, what: Covered, time_ms: int) -> bool:
    """Tell whether one record of the allowlist covers something at a time.

    What is about all models of a key (`model` None) is not covered by an entry for some of them.
    """
    return (
        not allow.withdrawn
        and time_ms < allow.expires_ms
        and (not allow.keys or what.key in allow.keys)
        and (not allow.tenants or what.tenant in allow.tenants)
        and (not allow.plans or what.plan in allow.plans)
        and (not allow.models or what.model in allow.models)
        and bool(allow.keys or allow.tenants or allow.plans or allow.models)
    )


def find_cover(allows: Iterable[Allow], what: Covered, time_ms: int) -> Allow | None:
    """Return the first record that covers something at a time, if one does."""
    return next((allow for allow in allows if covers(allow, what, time_ms)), None)


class Allowlist:
    """The newest record of each entry. Not thread-safe for `take`; `records` is replaced, never changed.

    Parameters
    ----------
    trusted : TrustedKeys
    """

    def __init__(self, trusted: TrustedKeys) -> None:
        self._trusted = trusted
        self._decoder = msgspec.json.Decoder(Allow)
        self.sequence = -1
        """Of the newest record taken."""
        self.records: tuple[Allow, ...] = ()
        """The newest of each entry, also of those withdrawn."""

    @property
    def entries(self) -> tuple[Allow, ...]:
        """The entries that were not withdrawn."""
        return tuple(allow for allow in self.records if not allow.withdrawn)

    def take(self, value: bytes) -> Allow:
        """Take a record as it stands on the topic and return it.

        Raises
        ------
        SigningError
            If it is no such record, is not signed by who may, or is older than one taken already; nothing has
            changed then.
        """
        try:
            allow = self._decoder.decode(value)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise SigningError("an allowlist record", f"malformed ({error})", "Discard it") from error
        self._trusted.verify(allow, "operators", allow.issued_ms)
        if allow.sequence <= self.sequence:
            why = f"its sequence {allow.sequence} is not above {self.sequence}: it was sent again, or late"
            raise SigningError(f"allow {allow.allow_id}", why, "Discard it, and look for who sent it")
        self.sequence = allow.sequence
        kept = tuple(entry for entry in self.records if entry.allow_id != allow.allow_id)
        self.records = (*kept, allow)
        return allow

    def find(self, what: Covered, time_ms: int) -> Allow | None:
        """Return an entry that covers something at a time, if one does."""
        return find_cover(self.records, what, time_ms)
