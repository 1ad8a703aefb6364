"""What the policy engine remembers of each key: what stands, offences, what is forgiven, what waits.

Part of every dump, so it is small, bounded and plain data. Places are a key and a model, or a key and no
model for all of its models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from detectors.alert import LEVELS, Level
from sinks.breaker import BreakerState
from sinks.records import Command, Mode  # noqa: TC001 - msgspec reads the annotations at run time
from sinks.rules import RuleAction  # noqa: TC001 - same

if TYPE_CHECKING:
    from collections.abc import Iterator

    from detectors.alert import Alert
    from sinks.rules import Rule

STATE_VERSION = 2
_SEPARATOR = "\x1f"


class PolicyStateError(ValueError):
    """A state blob is damaged or of another version."""


class Standing(msgspec.Struct, array_like=True):
    """The strongest decision that stands for a key and model."""

    action: RuleAction
    level: Level
    families: tuple[str, ...]
    expires_ms: int
    commanded: bool
    decision_id: str
    alert_id: str
    tenant: str | None = None
    plan: str | None = None
    rule: str = ""


class Offence(msgspec.Struct, array_like=True):
    """How often a key has offended against a rule, and when last."""

    count: int
    last_ms: int
    acted: bool
    """Commands followed. What was only observed is no reason to begin higher once commands leave."""


class Forgiven(msgspec.Struct, array_like=True):
    """What a person has said is honest: nothing beyond this level, no other family."""

    until_ms: int
    level: Level
    families: tuple[str, ...] | None


class Pending(msgspec.Struct, array_like=True):
    """A revocation that waits for a person."""

    command: Command
    """As it would leave, unsigned."""
    duration_s: int
    until_ms: int
    level: Level
    families: tuple[str, ...]
    calls: float
    """The key's, in the breaker's window."""
    mode: Mode
    suspended: bool
    """The key was suspended for the waiting."""


class PolicyState(msgspec.Struct):
    """Everything that a policy engine remembers."""

    version: int = STATE_VERSION
    sequence: int = 0
    """Of the last command."""
    decided: int = 0
    latest_ms: int = 0
    standing: dict[str, Standing] = {}
    offences: dict[str, Offence] = {}
    forgiven: dict[str, Forgiven] = {}
    pending: dict[str, Pending] = {}
    """By decision id."""
    acted: dict[str, int] = {}
    """When each operator action was taken, by its id: one that is sent again changes nothing."""
    breaker: BreakerState = msgspec.field(default_factory=BreakerState)

    def prune(self, forgiven_s: int) -> None:
        """Forget what no longer matters."""
        oldest_ms = self.latest_ms - 1000 * forgiven_s
        self.standing = {p: s for p, s in self.standing.items() if s.expires_ms > oldest_ms}
        self.offences = {p: o for p, o in self.offences.items() if o.last_ms > oldest_ms}
        self.forgiven = {p: f for p, f in self.forgiven.items() if f.until_ms > self.latest_ms}
        self.pending = {d: w for d, w in self.pending.items() if w.until_ms > self.latest_ms}
        self.acted = {a: time_ms for a, time_ms in self.acted.items() if time_ms > oldest_ms}

    def places(self, key: str, model: str | None) -> list[str]:
        """Return the places at which something stands for a key: of one model, or of all."""
        whole = place(key, "")
        wanted = None if model is None else place(key, model)
        return [p for p in self.standing if p == wanted or (model is None and p.startswith(whole))]

    def step(self, alert: Alert, rule: Rule, *, acts: bool) -> int:
        """Return how far a rule has climbed for the alert's key: offences, less one for each quiet time."""
        offence = self.offences.get(_rule_place(alert, rule))
        if offence is None or (acts and not offence.acted):
            return 0
        quiet = max(0, alert.time_ms - offence.last_ms) // (1000 * rule.decay_s)
        return max(0, min(offence.count - quiet, len(rule.steps) - 1))

    def offend(self, alert: Alert, rule: Rule, *, acts: bool) -> None:
        """Remember an offence; what has decayed is taken off first, what climbed is bounded."""
        count = min(self.step(alert, rule, acts=acts) + 1, len(rule.steps))
        self.offences[_rule_place(alert, rule)] = Offence(count, alert.time_ms, acts)

    def forgives(self, alert: Alert) -> bool:
        """Tell whether a person has said that this finding is honest."""
        for at in (place(alert.key, alert.model), place(alert.key, "")):
            word = self.forgiven.get(at)
            if word is None or alert.time_ms >= word.until_ms:
                continue
            if LEVELS.index(alert.level) > LEVELS.index(word.level):
                continue
            if word.families is None or set(alert.families) <= set(word.families):
                return True
        return False

    def forgive(self, key: str, model: str | None, until_ms: int) -> list[Standing]:
        """Take a person's word for what stands; return that. A key with nothing is forgiven everything."""
        lifted = [self.standing.pop(p) for p in self.places(key, model)]
        level = max((one.level for one in lifted), key=LEVELS.index, default=LEVELS[-1])
        families = tuple(sorted({family for one in lifted for family in one.families})) if lifted else None
        self.forgiven[place(key, model or "")] = Forgiven(until_ms, level, families)
        about = place(key, "") if model is None else place(key, model) + _SEPARATOR
        for at in [p for p in self.offences if p.startswith(about)]:
            del self.offences[at]
        for decision_id in [d for d, w in self.pending.items() if _is_about(w.command, key, model)]:
            del self.pending[decision_id]
        return lifted

    def condemn(self, key: str, model: str | None) -> None:
        """Take back what was forgiven."""
        at = place(key, model or "")
        for found in [p for p in self.forgiven if p == at or (model is None and p.startswith(at))]:
            del self.forgiven[found]

    def waits(self, key: str, model: str | None) -> Iterator[str]:
        """Yield the ids of the decisions about a key that wait for a person."""
        return (d for d, w in self.pending.items() if _is_about(w.command, key, model))


def place(key: str, model: str) -> str:
    """Return how a key and a model are named in the state."""
    return f"{key}{_SEPARATOR}{model}"


def split_place(at: str) -> tuple[str, str]:
    """Return the key and model of a place."""
    key, _, model = at.partition(_SEPARATOR)
    return key, model


def _rule_place(alert: Alert, rule: Rule) -> str:
    return _SEPARATOR.join((alert.key, alert.model, rule.name))


def _is_about(command: Command, key: str, model: str | None) -> bool:
    return command.key == key and (model is None or command.model == model)


def decode_state(blob: bytes) -> PolicyState:
    """Read a state. Raises PolicyStateError."""
    try:
        version = msgspec.msgpack.decode(blob, type=_Version).version
        if version != STATE_VERSION:
            raise PolicyStateError(f"the policy's state has version {version}, not {STATE_VERSION}")
        return msgspec.msgpack.decode(blob, type=PolicyState)
    except msgspec.MsgspecError as error:
        raise PolicyStateError("the policy's state is damaged") from error


class _Version(msgspec.Struct):
    version: int
