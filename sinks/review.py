"""What people decide about keys: approvals and rejections, undo, appeals, verdicts.

Each word is a record that somebody is named in; what it leads to carries the same ids on every replay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from sinks.allowlist import find_cover
from sinks.policycore import make_id
from sinks.policystate import Standing, place
from sinks.records import Decision, Feedback, OperatorAction
from sinks.rules import weaker

if TYPE_CHECKING:
    from sinks.policycore import PolicyCore
    from sinks.policystate import Pending

FEEDBACK_RULE = "feedback"
"""Stands for the rule in what follows from a person's verdict."""
_RULES = {
    "approve": "approval",
    "reject": "rejection",
    "undo": "undo",
    "grant_appeal": "appeal",
}
"""The same for each operator action that a decision follows from."""


def operate(core: PolicyCore, action: OperatorAction) -> Decision | None:
    """Do what a person has decided; its signature has been verified. None where nothing follows.

    Nothing follows from an action that was taken already, or that is so old that nobody remembers: it was
    sent again, perhaps by somebody who liked it.
    """
    state = core.state
    is_old = action.time_ms <= state.latest_ms - 1000 * core.policy.forgiven_s
    if is_old or action.action_id in state.acted:
        return None
    state.acted[action.action_id] = action.time_ms
    core.tick(action.time_ms)
    match action.action:
        case "approve":
            return _approve(core, action)
        case "reject":
            return _reject(core, action)
        case "open_appeal":
            sentence = f"{action.operator} has opened an appeal: {action.reason}"
            core.notify(
                "appeal_opened", "ticket", sentence, decision_id=action.decision_id, time_ms=action.time_ms
            )
            return None
        case "deny_appeal":
            return None
        case _:
            return absolve(core, action)


def absolve(core: PolicyCore, word: Feedback | OperatorAction) -> Decision:
    """Restore a key that a person says is honest, and let the same finding pass for a while.

    The same finding: the key and model (or all of its models), the families that were found and no other, at
    the level that was found or below. A key that nothing stands against is forgiven every finding. The
    command leaves in any mode if one of ours is to be lifted: `restore` takes nothing from anybody.
    """
    lifted = core.state.forgive(word.key, word.model, word.time_ms + 1000 * core.policy.forgiven_s)
    idle = core.idle(core.policy.mode, word.key)
    leaves = core.may_sign and (idle is None or any(one.commanded for one in lifted))
    source = _source(word)
    if isinstance(word, Feedback):
        alert_id, rule = word.alert_id or make_id("feedback", source), FEEDBACK_RULE
    else:
        alert_id, rule = word.alert_id, _RULES[word.action]
    command = core.restoring(
        key=word.key,
        model=word.model,
        time_ms=word.time_ms,
        alert_id=alert_id,
        source=source,
        rule=rule,
        reason=word.reason,
    )
    return Decision(
        decision_id=make_id("decision", alert_id, source),
        alert_id=alert_id,
        time_ms=word.time_ms,
        key=word.key,
        model=word.model,
        rule=rule,
        policy_version=core.policy.policy_version,
        mode=core.policy.mode,
        action="restore",
        withheld=None if leaves else idle,
        command=core.sign(command) if leaves else None,
        follows=None if isinstance(word, Feedback) else word.decision_id,
        decided_by=word.author if isinstance(word, Feedback) else word.operator,
    )


def _source(word: Feedback | OperatorAction) -> str:
    return msgspec.json.encode(word).decode() if isinstance(word, Feedback) else word.action_id


def _approve(core: PolicyCore, action: OperatorAction) -> Decision:
    """Let a revocation leave, unless something else holds it back; then it waits on."""
    pending = core.state.pending.get(action.decision_id)
    if pending is None or pending.until_ms <= action.time_ms or pending.command.key != action.key:
        why: str | None = "no decision waits under this id, or its time is over"
        return _settle(core, action, "revoke", withheld=why)
    why = _obstacle(core, pending, action.time_ms)
    if why is not None:
        return _settle(core, action, "revoke", withheld=why)
    del core.state.pending[action.decision_id]
    command, expires_ms = pending.command, action.time_ms + 1000 * pending.duration_s
    core.state.standing[place(command.key, command.model or "")] = Standing(
        action="revoke",
        level=pending.level,
        families=pending.families,
        expires_ms=expires_ms,
        commanded=True,
        decision_id=action.decision_id,
        alert_id=command.alert_id,
        tenant=command.tenant,
        plan=command.plan,
    )
    approved = msgspec.structs.replace(
        command,
        command_id=make_id("command", action.action_id),
        issued_ms=action.time_ms,
        expires_ms=expires_ms,
        approved_by=action.operator,
    )
    return _settle(core, action, "revoke", command=core.sign(approved))


def _obstacle(core: PolicyCore, pending: Pending, time_ms: int) -> str | None:
    command = pending.command
    allow = find_cover(core.allowlist, command, time_ms)
    if allow is not None:
        return f"allowlist, {allow.purpose} ({allow.owner}): {allow.reason}"
    idle = core.idle(weaker(core.policy.mode, pending.mode), command.key)
    if idle is not None or "revoke" not in core.policy.breaker.actions:
        return idle
    return core.admit(command.key, command.tenant, pending.calls, time_ms)


def _reject(core: PolicyCore, action: OperatorAction) -> Decision:
    """End the waiting, and the suspension that was for it."""
    pending = core.state.pending.pop(action.decision_id, None)
    if pending is None or not pending.suspended:
        return _settle(core, action, "revoke", withheld=f"{action.operator} rejected it: {action.reason}")
    core.state.standing.pop(place(pending.command.key, pending.command.model or ""), None)
    command = core.restoring(
        key=pending.command.key,
        model=pending.command.model,
        time_ms=action.time_ms,
        alert_id=action.alert_id,
        source=action.action_id,
        rule=_RULES["reject"],
        reason=action.reason,
    )
    return _settle(core, action, "restore", command=core.sign(command))


def _settle(core: PolicyCore, action: OperatorAction, what: Any, **fields: Any) -> Decision:
    return Decision(
        decision_id=make_id("decision", action.action_id),
        alert_id=action.alert_id,
        time_ms=action.time_ms,
        key=action.key,
        model=action.model,
        rule=_RULES[action.action],
        policy_version=core.policy.policy_version,
        mode=core.policy.mode,
        action=what,
        follows=action.decision_id,
        decided_by=action.operator,
        **fields,
    )
