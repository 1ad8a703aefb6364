"""The policy file: what follows from an alert, in YAML, read strictly.

A misspelt field, an impossible value or a rule that could act without what it needs is refused by its path.
The first rule that matches an alert decides; write the strictest first.
"""

from __future__ import annotations

import datetime as dt  # noqa: TC003 - msgspec reads the annotations at run time
import hashlib
import math
from functools import cached_property
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from detectors.alert import Family, Level  # noqa: TC001 - msgspec reads the annotations at run time
from sinks.errors import PolicyError
from sinks.records import KeyReference, Mode, Name  # noqa: TC001 - same
from sinks.yamlfile import explain_form, parse_config, read_config

if TYPE_CHECKING:
    from pathlib import Path

RuleAction = Literal["watch", "throttle", "coarsen", "watermark", "challenge", "suspend", "revoke"]
"""What a rule may ask for, weakest first; `restore` is a person's word, not a rule's."""

PARAMETERS: dict[RuleAction, frozenset[str]] = {
    "throttle": frozenset({"requests_per_minute"}),
    "coarsen": frozenset({"decimals"}),
}
"""Parameters that an action needs; the others have none."""

MODES: tuple[Mode, ...] = ("observe", "canary", "enforce")
_REVOKE_FAMILIES = 2
Seconds = Annotated[int, Meta(ge=1, le=366 * 86_400)]
Share = Annotated[float, Meta(ge=0, le=1)]


class Conditions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an alert must be; a condition not given holds always, and all that are given must hold."""

    levels: tuple[Level, ...] = ()
    families: tuple[Family, ...] = ()
    """At least one of these families is among those that agree."""
    min_families: Annotated[int, Meta(ge=1, le=16)] = 1
    """So many families agree at the alert's level."""
    models: tuple[Name, ...] = ()
    tenants: tuple[Name, ...] = ()
    plans: tuple[Name, ...] = ()
    only_discoveries: bool = False
    """The alert is one of those of which at most the engine's `false_discovery_ratio` are false."""
    min_query_count: Annotated[int, Meta(ge=0)] = 0


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What follows from a matching alert, and for how long."""

    name: Name
    conditions: Conditions = Conditions()
    action: RuleAction
    duration_s: Seconds
    parameters: dict[str, float] = {}
    mode: Mode = "enforce"
    """The rule acts in the weaker of this mode and the policy's."""


class PolicyException(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Keys that no command touches: all lists given must hold. Somebody owns it, and it ends."""

    keys: tuple[KeyReference, ...] = ()
    tenants: tuple[Name, ...] = ()
    plans: tuple[Name, ...] = ()
    models: tuple[Name, ...] = ()
    owner: Name
    reason: Name
    expires: dt.date
    """Last day, in UTC."""


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """A whole policy file."""

    version: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    mode: Mode = "observe"
    canary_share: Share = 0.0
    """Share of keys that mode canary acts on; the same keys stay in as it grows."""
    forgiven_s: Seconds = 30 * 86_400
    """How long a person's word that a key is honest holds against the same finding."""
    rules: tuple[Rule, ...]
    exceptions: tuple[PolicyException, ...] = ()

    @cached_property
    def policy_version(self) -> str:
        """The version with 12 hex digits of the content's SHA-256, so that no two policies share it."""
        content = msgspec.json.encode(self, order="sorted")
        return f"{self.version}-{hashlib.sha256(content).hexdigest()[:12]}"


def weaker(one: Mode, other: Mode) -> Mode:
    """Return the more careful of two modes."""
    return min(one, other, key=MODES.index)


def parse_policy(text: str, source: str) -> Policy:
    """Read a policy from YAML text; `source` names it in errors.

    Raises
    ------
    PolicyError
        If a field is unknown, missing or wrong; the message names its path.
    FileFormatError
        If the text is not YAML.
    """
    return _to_policy(parse_config(text, source), source)


def load_policy(path: Path | None, mode: Mode | None = None) -> Policy:
    """Read a policy file, or the default policy, and override its mode if one is given.

    Raises
    ------
    PolicyError, FileFormatError
        As `parse_policy`, and if the file cannot be read.
    """
    if path is None:
        text = (files("deploy") / "policies" / "default.yaml").read_text(encoding="utf-8")
        policy = parse_policy(text, "the default policy")
    else:
        policy = _to_policy(read_config(path), f"policy file {path}")
    return policy if mode is None else msgspec.structs.replace(policy, mode=mode)


def _to_policy(tree: object, source: str) -> Policy:
    try:
        policy = msgspec.convert(tree, Policy)
    except msgspec.ValidationError as error:
        kinds: tuple[type[msgspec.Struct], ...] = (Policy, Rule, Conditions, PolicyException)
        known = [name for kind in kinds for name in kind.__struct_fields__]
        raise PolicyError(source, explain_form(error, known), "Correct or remove that field") from error
    _check(policy, source)
    return policy


def _check(policy: Policy, source: str) -> None:
    """Refuse what the types let through."""
    names = [rule.name for rule in policy.rules]
    for at, rule in enumerate(policy.rules):
        path = f"$.rules[{at}]"
        if rule.name in names[:at]:
            raise PolicyError(source, f"{path}.name: used by an earlier rule", "Give every rule its own name")
        needed = PARAMETERS.get(rule.action, frozenset())
        if rule.parameters.keys() != needed:
            wanted = " and ".join(sorted(needed)) or "no parameters"
            raise PolicyError(source, f"{path}.parameters: {rule.action} takes {wanted}", "Correct them")
        if not all(math.isfinite(value) and value >= 0 for value in rule.parameters.values()):
            raise PolicyError(source, f"{path}.parameters: a value is negative or not finite", "Correct it")
        if rule.action == "revoke" and rule.conditions.min_families < _REVOKE_FAMILIES:
            why = f"{path}.conditions.min_families: a revocation needs {_REVOKE_FAMILIES} families that agree"
            raise PolicyError(source, why, f"Set it to {_REVOKE_FAMILIES}, or suspend instead")
    for at, item in enumerate(policy.exceptions):
        if not (item.keys or item.tenants or item.plans or item.models):
            why = f"$.exceptions[{at}]: it names no key, tenant, plan or model, so it would cover everything"
            raise PolicyError(source, why, "Name what it covers, or use mode observe")
