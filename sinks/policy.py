"""The policy engine: alerts in, decisions out, and a signed command where the mode lets one leave.

Deterministic: ids come from the alert and the rule, times from the alert, so a replay makes the same commands
and an enforcer can drop what it has seen. Not thread-safe; one engine per source partition.
"""

from __future__ import annotations

import datetime as dt
from hashlib import blake2b
from typing import TYPE_CHECKING, get_args

import msgspec

from detectors.alert import LEVELS, Level, is_budget_alert
from sinks.errors import PolicyError
from sinks.policyfile import RuleAction, weaker
from sinks.records import Command, Decision, Feedback, Mode

if TYPE_CHECKING:
    from detectors.alert import Alert
    from sinks.policyfile import Conditions, Policy, PolicyException, Rule
    from sinks.signing import Signer

STATE_VERSION = 1
FEEDBACK_RULE = "feedback"
"""Stands for the rule in what follows from a person's word."""
_RANK: dict[str, int] = {action: rank for rank, action in enumerate(get_args(RuleAction))}
_PRUNE_EVERY = 1024


class _Standing(msgspec.Struct, array_like=True):
    """The strongest decision that stands for a key and model."""

    action: RuleAction
    level: Level
    families: tuple[str, ...]
    expires_ms: int
    commanded: bool


class _Forgiven(msgspec.Struct, array_like=True):
    """What a person has said is honest: nothing beyond this level, no other family."""

    until_ms: int
    level: Level
    families: tuple[str, ...] | None


class _State(msgspec.Struct):
    version: int = STATE_VERSION
    sequence: int = 0
    """Of the last command."""
    decided: int = 0
    latest_ms: int = 0
    standing: dict[str, _Standing] = {}
    forgiven: dict[str, _Forgiven] = {}


class PolicyStateError(ValueError):
    """A state blob is damaged or of another version."""


class PolicyEngine:
    """Decides what follows from alerts.

    Parameters
    ----------
    policy : Policy
        From `sinks.policyfile.load_policy`.
    signer : Signer, optional
        Needed in modes canary and enforce.

    Raises
    ------
    PolicyError
        If the mode lets commands leave and there is no signer.
    """

    def __init__(self, policy: Policy, signer: Signer | None = None) -> None:
        self._signer = signer
        self._state = _State()
        self.set_policy(policy)

    def set_policy(self, policy: Policy) -> None:
        """Replace the policy, keep what stands. Raises PolicyError like the constructor, changing nothing."""
        if policy.mode != "observe" and self._signer is None:
            raise PolicyError(
                f"policy {policy.version}, mode {policy.mode}",
                "commands must be signed and there is no signing key",
                "Set signing_key_file to a key made by `modelwarden policy keygen FILE`, or use mode observe",
            )
        self.policy = policy

    def decide(self, alert: Alert) -> Decision | None:
        """Decide on an alert; None if no rule matches, or it is about a campaign, whose keys have their own.

        A command's life counts from the alert's time, not from a clock, so that a replay makes the same one;
        an enforcer refuses what has expired on the way.
        """
        rule = next((rule for rule in self.policy.rules if _matches(rule.conditions, alert)), None)
        if rule is None or alert.subject != "key":
            return None
        self._tick(alert.time_ms)
        mode = weaker(self.policy.mode, rule.mode)
        place = _place(alert.key, alert.model)
        expires_ms = alert.time_ms + 1000 * rule.duration_s
        acts = self._acts(mode, alert.key)
        withheld = (
            self._excepted(alert)
            or self._forgiven(alert)
            or self._outdone(place, rule.action, alert.time_ms, acts=acts)
        )
        if withheld is None:
            self._state.standing[place] = _Standing(
                rule.action, alert.level, alert.families, expires_ms, acts
            )
        withheld = withheld or (None if acts else _mode_reason(mode))
        command = None if withheld else self._command(alert, rule, expires_ms)
        return Decision(
            decision_id=_id("decision", alert.alert_id, rule.name),
            alert_id=alert.alert_id,
            time_ms=alert.time_ms,
            key=alert.key,
            model=alert.model,
            rule=rule.name,
            policy_version=self.policy.policy_version,
            mode=mode,
            action=rule.action,
            withheld=withheld,
            command=command,
        )

    def forgive(self, feedback: Feedback) -> Decision:
        """Restore a key that a person says is honest, and let the same finding pass for a while.

        The same finding: the key and model (or all of its models), the families that were found and no other,
        at the level that was found or below. A key that nothing stands against is forgiven every finding.
        """
        self._tick(feedback.time_ms)
        place = _place(feedback.key, feedback.model or "")
        whole = feedback.model is None
        places = [p for p in self._state.standing if p == place or (whole and p.startswith(place))]
        lifted = [self._state.standing.pop(p) for p in places]
        level = max((one.level for one in lifted), key=LEVELS.index, default=LEVELS[-1])
        families = tuple(sorted({family for one in lifted for family in one.families})) if lifted else None
        until_ms = feedback.time_ms + 1000 * self.policy.forgiven_s
        self._state.forgiven[place] = _Forgiven(until_ms, level, families)
        source = msgspec.json.encode(feedback).decode()
        alert_id = feedback.alert_id or _id("feedback", source)
        acts = self._acts(self.policy.mode, feedback.key)
        return Decision(
            decision_id=_id("decision", alert_id, source),
            alert_id=alert_id,
            time_ms=feedback.time_ms,
            key=feedback.key,
            model=feedback.model,
            rule=FEEDBACK_RULE,
            policy_version=self.policy.policy_version,
            mode=self.policy.mode,
            action="restore",
            withheld=None if acts else _mode_reason(self.policy.mode),
            command=self._restore(feedback, alert_id, source, until_ms) if acts else None,
        )

    def condemn(self, feedback: Feedback) -> None:
        """Take back what was forgiven: a person says that the key is guilty. The next alert decides."""
        place = _place(feedback.key, feedback.model or "")
        forgiven = self._state.forgiven
        for found in [p for p in forgiven if p == place or (feedback.model is None and p.startswith(place))]:
            del forgiven[found]

    def dump(self) -> bytes:
        """Return the state as bytes: what stands, what is forgiven, and the last sequence number."""
        return msgspec.msgpack.encode(self._state)

    def restore(self, blob: bytes) -> None:
        """Replace the state by a dump. Raises PolicyStateError."""
        try:
            state = msgspec.msgpack.decode(blob, type=_State)
        except msgspec.MsgspecError as error:
            raise PolicyStateError("the policy's state is damaged") from error
        if state.version != STATE_VERSION:
            raise PolicyStateError(f"the policy's state has version {state.version}, not {STATE_VERSION}")
        self._state = state

    def _tick(self, time_ms: int) -> None:
        """Forget now and then what no longer matters; by count, so that a replay forgets alike."""
        state = self._state
        state.latest_ms = max(state.latest_ms, time_ms)
        state.decided += 1
        if state.decided % _PRUNE_EVERY == 0:
            oldest_ms = state.latest_ms - 1000 * self.policy.forgiven_s
            state.standing = {p: s for p, s in state.standing.items() if s.expires_ms > oldest_ms}
            state.forgiven = {p: f for p, f in state.forgiven.items() if f.until_ms > state.latest_ms}

    def _acts(self, mode: Mode, key: str) -> bool:
        return mode == "enforce" or (mode == "canary" and _share(key) < self.policy.canary_share)

    def _excepted(self, alert: Alert) -> str | None:
        for item in self.policy.exceptions:
            if _covers(item, alert):
                return f"exception of {item.owner} until {item.expires.isoformat()}: {item.reason}"
        return None

    def _forgiven(self, alert: Alert) -> str | None:
        for place in (_place(alert.key, alert.model), _place(alert.key, "")):
            word = self._state.forgiven.get(place)
            if word is None or alert.time_ms >= word.until_ms:
                continue
            if LEVELS.index(alert.level) > LEVELS.index(word.level):
                continue
            if word.families is None or set(alert.families) <= set(word.families):
                return "a person said that this finding is honest"
        return None

    def _outdone(self, place: str, action: RuleAction, time_ms: int, *, acts: bool) -> str | None:
        standing = self._state.standing.get(place)
        if standing is None or standing.expires_ms <= time_ms or _RANK[standing.action] < _RANK[action]:
            return None
        if acts and not standing.commanded:
            return None
        return f"{standing.action} stands for this key and model already"

    def _command(self, alert: Alert, rule: Rule, expires_ms: int) -> Command:
        return self._sign(
            Command(
                command_id=_id("command", alert.alert_id, rule.name, rule.action),
                action=rule.action,
                key=alert.key,
                model=alert.model,
                tenant=alert.tenant,
                issued_ms=alert.time_ms,
                expires_ms=expires_ms,
                rule=rule.name,
                policy_version=self.policy.policy_version,
                alert_id=alert.alert_id,
                reason=alert.sentence,
                parameters=rule.parameters,
            )
        )

    def _restore(self, feedback: Feedback, alert_id: str, source: str, until_ms: int) -> Command:
        return self._sign(
            Command(
                command_id=_id("command", alert_id, source),
                action="restore",
                key=feedback.key,
                model=feedback.model,
                issued_ms=feedback.time_ms,
                expires_ms=until_ms,
                rule=FEEDBACK_RULE,
                policy_version=self.policy.policy_version,
                alert_id=alert_id,
                reason=feedback.reason,
            )
        )

    def _sign(self, command: Command) -> Command:
        if self._signer is None:  # set_policy has seen to it
            raise PolicyError("a command", "there is no signing key", "Set signing_key_file")
        self._state.sequence += 1
        return self._signer.sign(msgspec.structs.replace(command, sequence=self._state.sequence))


def _matches(conditions: Conditions, alert: Alert) -> bool:
    """Tell whether a rule is about the alert; a budget alert asks for a rule that names its family."""
    return (
        (not is_budget_alert(alert) or "budget" in conditions.families)
        and (not conditions.levels or alert.level in conditions.levels)
        and (not conditions.families or not set(conditions.families).isdisjoint(alert.families))
        and len(alert.families) >= conditions.min_families
        and (not conditions.models or alert.model in conditions.models)
        and (not conditions.tenants or alert.tenant in conditions.tenants)
        and (not conditions.plans or alert.plan in conditions.plans)
        and alert.query_count >= conditions.min_query_count
        and (alert.is_discovery or not conditions.only_discoveries)
    )


def _covers(item: PolicyException, alert: Alert) -> bool:
    end = dt.datetime.combine(item.expires, dt.time(), dt.UTC) + dt.timedelta(days=1)
    return (
        alert.time_ms < end.timestamp() * 1000
        and (not item.keys or alert.key in item.keys)
        and (not item.tenants or alert.tenant in item.tenants)
        and (not item.plans or alert.plan in item.plans)
        and (not item.models or alert.model in item.models)
    )


def _mode_reason(mode: Mode) -> str:
    return "mode observe" if mode == "observe" else "mode canary, and the key is not in its share"


def _place(key: str, model: str) -> str:
    return f"{key}\x1f{model}"


def _share(key: str) -> float:
    """Return where a key stands in [0, 1): the same for ever, even between policies."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8, person=b"mw-canary").digest()) / 2**64


def _id(what: str, *parts: str) -> str:
    return blake2b("\x1f".join(parts).encode(), digest_size=16, person=f"mw-{what}".encode()).hexdigest()
