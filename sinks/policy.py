"""The policy engine: alerts in, decisions out, and a signed command where the mode lets one leave.

Deterministic: ids come from the alert and the rule, times from the alert or from what a person signed, so a
replay makes the same commands and an enforcer can drop what it has seen. Not thread-safe; one engine per
source partition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import msgspec

from detectors.alert import LEVELS
from detectors.batch import is_synthetic
from sinks.allowlist import find_cover
from sinks.breaker import calls_in_window
from sinks.policycore import PolicyCore, make_id
from sinks.policystate import Pending, PolicyStateError, Standing, place
from sinks.records import Command, Decision, Feedback, Mode, Notice, OperatorAction
from sinks.review import FEEDBACK_RULE, absolve, operate
from sinks.rules import RuleAction, Step, excuses, key_age_s, needs_approval, unmet, weaker

if TYPE_CHECKING:
    from detectors.alert import Alert
    from sinks.policyfile import Policy
    from sinks.records import Allow
    from sinks.rules import Rule
    from sinks.signing import Signer

__all__ = ["FEEDBACK_RULE", "WAITS", "PolicyEngine", "PolicyStateError"]

WAITS = "waits for a person's approval"
_RANK: dict[str, int] = {action: rank for rank, action in enumerate(get_args(RuleAction))}


@dataclass(slots=True, frozen=True)
class _Case:
    """One alert under the rule that it matched."""

    alert: Alert
    rule: Rule
    step: Step
    step_number: int
    mode: Mode
    acts: bool
    """Nothing but the alert itself can hold a command back."""

    @property
    def decision_id(self) -> str:
        return make_id("decision", self.alert.alert_id, self.rule.name)

    @property
    def place(self) -> str:
        return place(self.alert.key, self.alert.model)

    def command(self, step: Step) -> Command:
        """Return the command of a step, unsigned."""
        alert = self.alert
        return Command(
            command_id=make_id("command", alert.alert_id, self.rule.name, step.action),
            action=step.action,
            key=alert.key,
            model=alert.model,
            tenant=alert.tenant,
            issued_ms=alert.time_ms,
            expires_ms=self.ends_ms(step),
            rule=self.rule.name,
            policy_version="",
            alert_id=alert.alert_id,
            reason=alert.sentence,
            parameters=step.parameters,
            plan=alert.plan,
        )

    def ends_ms(self, step: Step) -> int:
        """Return when a step ends: a command's life counts from the alert's time, not from a clock."""
        return self.alert.time_ms + 1000 * step.duration_s


class PolicyEngine:
    """Decides what follows from alerts, and does what people have decided.

    Parameters
    ----------
    policy : Policy
        From `sinks.policyfile.load_policy`.
    signer : Signer, optional
        Needed in modes canary and enforce.
    partition, partitions : int
        Whose share of the breaker's limits this is.

    Raises
    ------
    PolicyError
        If the mode lets commands leave and there is no signer.
    """

    def __init__(
        self, policy: Policy, signer: Signer | None = None, *, partition: int = 0, partitions: int = 1
    ) -> None:
        self._core = PolicyCore(policy, signer, partition, partitions)

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._core.policy

    @property
    def is_breaker_open(self) -> bool:
        """Whether the breaker holds commands back, as of the newest event."""
        return self._core.is_breaker_open

    @property
    def allowlist(self) -> tuple[Allow, ...]:
        """The allowlist in force."""
        return self._core.allowlist

    def set_place(self, partition: int, partitions: int) -> None:
        """Tell whose share of the breaker's limits this is."""
        self._core.breaker.place = (partition, partitions)

    def set_policy(self, policy: Policy) -> list[Decision]:
        """Replace the policy, keep what stands, but restore what its exceptions cover.

        Raises PolicyError like the constructor, changing nothing.
        """
        self._core.set_policy(policy)
        return self._core.restore_covered()

    def set_allowlist(self, allowlist: tuple[Allow, ...]) -> list[Decision]:
        """Replace the allowlist, and restore the keys that it covers from commands that stand."""
        self._core.allowlist = allowlist
        return self._core.restore_covered()

    def reset_breaker(self, resets: int) -> None:
        """Obey the newest reset by command, unless that was done."""
        if self._core.breaker.reset(resets):
            self._core.notify(
                "breaker_closed", "info", "A person has reset the breaker: commands leave again."
            )

    def count_calls(self, calls_by_minute: dict[int, int]) -> None:
        """Take note of how many calls were made, by minute since 1970; the breaker needs their sum."""
        self._core.breaker.count_calls(calls_by_minute)

    def take_notices(self) -> list[Notice]:
        """Return what operators must be told since the last call."""
        taken, self._core.notices = self._core.notices, []
        return taken

    def forgive(self, feedback: Feedback) -> Decision:
        """Restore a key that a person says is honest, and let the same finding pass (`sinks.review`)."""
        self._core.tick(feedback.time_ms)
        return absolve(self._core, feedback)

    def condemn(self, feedback: Feedback) -> None:
        """Take back what was forgiven: a person says that the key is guilty. The next alert decides."""
        self._core.state.condemn(feedback.key, feedback.model)

    def operate(self, action: OperatorAction) -> Decision | None:
        """Do what a person has decided; its signature has been verified. None where nothing follows."""
        return operate(self._core, action)

    def dump(self) -> bytes:
        """Return the state as bytes: what stands, offences, what is forgiven, what waits, the breaker."""
        return msgspec.msgpack.encode(self._core.state)

    def restore(self, blob: bytes) -> None:
        """Replace the state by a dump. Raises PolicyStateError."""
        self._core.load(blob)

    def decide(self, alert: Alert) -> Decision | None:
        """Decide on an alert; None if no rule matches, it is not about one key, or the key is synthetic.

        A command's life counts from the alert's time, not from a clock, so that a replay makes the same one;
        an enforcer refuses what has expired on the way.
        """
        core = self._core
        rule = next((rule for rule in core.policy.rules if not unmet(rule.conditions, alert)), None)
        if rule is None or alert.subject != "key" or is_synthetic(alert.key):
            return None
        core.tick(alert.time_ms)
        mode = weaker(core.policy.mode, rule.strongest_mode)
        idle = core.idle(mode, alert.key)
        number = core.state.step(alert, rule, acts=idle is None)
        case = _Case(alert, rule, rule.steps[number], number, mode, idle is None)
        excused = self._excused(alert, rule) or self._outdone(case)
        if excused is not None:
            return self._decision(case, withheld=excused)
        core.state.offend(alert, rule, acts=case.acts)
        if idle is not None:
            self._stand(case, case.step, commanded=False)
            return self._decision(case, withheld=idle)
        if case.step.action == "revoke" and needs_approval(rule, alert):
            return self._ask(case)
        tripped, command = self._send(case, case.step)
        return self._decision(case, withheld=tripped, command=command)

    def _excused(self, alert: Alert, rule: Rule) -> str | None:
        """Say why nothing follows from the alert at all, if nothing does."""
        allow = find_cover(self._core.allowlist, alert, alert.time_ms)
        if allow is not None:
            return f"allowlist, {allow.purpose} ({allow.owner}): {allow.reason}"
        for item in (*rule.exceptions, *self.policy.exceptions):
            if excuses(item, alert):
                return f"exception of {item.owner} until {item.expires.isoformat()}: {item.reason}"
        return "a person said that this finding is honest" if self._core.state.forgives(alert) else None

    def _outdone(self, case: _Case) -> str | None:
        """Say what stands already that is as strong, so that commands do not pile up."""
        alert, state = case.alert, self._core.state
        if case.acts and case.step.action == "revoke":
            waiting = next(state.waits(alert.key, alert.model), None)
            if waiting is not None and state.pending[waiting].until_ms > alert.time_ms:
                return f"decision {waiting} about this key {WAITS} already"
        standing = self._standing(case)
        if standing is None:
            return None
        # A key climbs when it offends again, not when the same offence is told twice.
        is_same = standing.rule == case.rule.name
        if not is_same and _RANK[standing.action] < _RANK[case.step.action]:
            return None
        if case.acts and not standing.commanded:
            return None
        # What stands answers for this finding too, so that an undo forgives both.
        standing.level = max(standing.level, alert.level, key=LEVELS.index)
        standing.families = tuple(sorted({*standing.families, *alert.families}))
        return f"{standing.action} stands for this key and model already"

    def _standing(self, case: _Case) -> Standing | None:
        standing = self._core.state.standing.get(case.place)
        return standing if standing is not None and standing.expires_ms > case.alert.time_ms else None

    def _stand(self, case: _Case, step: Step, *, commanded: bool) -> None:
        alert = case.alert
        self._core.state.standing[case.place] = Standing(
            action=step.action,
            level=alert.level,
            families=alert.families,
            expires_ms=case.ends_ms(step),
            commanded=commanded,
            decision_id=case.decision_id,
            alert_id=alert.alert_id,
            tenant=alert.tenant,
            plan=alert.plan,
            rule=case.rule.name,
        )

    def _send(self, case: _Case, step: Step) -> tuple[str | None, Command | None]:
        """Make a command, unless the breaker holds it back; return why it does, or the command."""
        core, alert = self._core, case.alert
        tripped = None
        if step.action in core.policy.breaker.actions:
            tripped = core.admit(alert.key, alert.tenant, self._calls(alert), alert.time_ms)
        self._stand(case, step, commanded=tripped is None)
        return tripped, None if tripped else core.sign(self._versioned(case.command(step)))

    def _ask(self, case: _Case) -> Decision:
        """Let a revocation wait for a person; the key is suspended meanwhile if the rule says so."""
        core, alert = self._core, case.alert
        interim = Step(action="suspend", duration_s=core.policy.approval_s)
        until_ms = case.ends_ms(interim)
        standing = self._standing(case)
        is_stopped = standing is not None and standing.commanded and standing.action == "suspend"
        tripped, command = None, None
        if case.rule.suspend_while_waiting and not is_stopped:
            tripped, command = self._send(case, interim)
        core.state.pending[case.decision_id] = Pending(
            command=self._versioned(case.command(case.step)),
            duration_s=case.step.duration_s,
            until_ms=until_ms,
            level=alert.level,
            families=alert.families,
            calls=self._calls(alert),
            mode=case.mode,
            suspended=command is not None,
        )
        sentence = f"A revocation {WAITS}: {alert.sentence}"
        core.notify(
            "approval_waiting", "ticket", sentence, decision_id=case.decision_id, time_ms=alert.time_ms
        )
        withheld = f"{WAITS}; {tripped}" if tripped else WAITS
        return self._decision(case, withheld=withheld, command=command, pending_until_ms=until_ms)

    def _calls(self, alert: Alert) -> float:
        return calls_in_window(alert.query_count, key_age_s(alert), self.policy.breaker.window_s)

    def _versioned(self, command: Command) -> Command:
        return msgspec.structs.replace(command, policy_version=self.policy.policy_version)

    def _decision(
        self,
        case: _Case,
        *,
        withheld: str | None,
        command: Command | None = None,
        pending_until_ms: int | None = None,
    ) -> Decision:
        alert = case.alert
        return Decision(
            decision_id=case.decision_id,
            alert_id=alert.alert_id,
            time_ms=alert.time_ms,
            key=alert.key,
            model=alert.model,
            rule=case.rule.name,
            policy_version=self.policy.policy_version,
            mode=case.mode,
            action=case.step.action,
            withheld=withheld,
            command=command,
            tenant=alert.tenant,
            plan=alert.plan,
            step=case.step_number,
            pending_until_ms=pending_until_ms,
        )
