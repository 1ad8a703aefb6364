"""The policy: a head and its rules, read strictly from YAML.

A folder holds `policy.yaml`, the head, and `rules/<name>.yaml`, one rule a file with its tests; the head
lists the rules' names in the order in which they are asked. A small policy may be one file, its rules inline.
The first rule that matches an alert decides; write the strictest first. A misspelt field, an impossible value
or a rule that could act without what it needs is refused by its path.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from sinks.breaker import BreakerLimits
from sinks.errors import PolicyError
from sinks.records import Mode  # noqa: TC001 - msgspec reads the annotations at run time
from sinks.rules import (
    Conditions,
    PolicyException,
    Rule,
    RuleFile,
    RuleTest,
    Seconds,
    Share,
    Step,
    weaker,
)
from sinks.serving.actions import ParameterError, check_parameters
from sinks.yamlfile import explain_form, parse_config, read_config

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable
    from pathlib import Path

__all__ = ["Policy", "PolicySource", "load_policy", "load_source", "parse_policy", "weaker"]

HEAD_FILE = "policy.yaml"
RULES_FOLDER = "rules"
_CORRECT = "Correct or remove that field"


class Policy(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, dict=True
):
    """A whole policy, as it is signed and obeyed."""

    version: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    mode: Mode = "observe"
    canary_share: Share = 0.0
    """Share of keys that mode canary acts on; the same keys stay in as it grows."""
    holdout_share: Share = 0.01
    """Share of keys that are only ever observed, so that precision stays measurable."""
    forgiven_s: Seconds = 30 * 86_400
    """How long a person's word that a key is honest holds against the same finding."""
    approval_s: Seconds = 86_400
    """How long a revocation waits for a person's approval."""
    breaker: BreakerLimits = BreakerLimits()
    rules: tuple[Rule, ...]
    exceptions: tuple[PolicyException, ...] = ()

    @cached_property
    def policy_version(self) -> str:
        """The version with 12 hex digits of the content's SHA-256, so that no two policies share it."""
        content = msgspec.json.encode(self, order="sorted")
        return f"{self.version}-{hashlib.sha256(content).hexdigest()[:12]}"


class PolicySource(msgspec.Struct, frozen=True, kw_only=True):
    """A policy as its author keeps it: with the rules' tests, and files that no rule list names."""

    policy: Policy
    rule_files: tuple[RuleFile, ...]
    unlisted: tuple[str, ...] = ()
    """Rule files that the head does not name."""


def parse_policy(text: str, source: str) -> Policy:
    """Read a policy of one file from its text; `source` names it in errors.

    Raises
    ------
    PolicyError
        If a field is unknown, missing or wrong; the message names its path.
    FileFormatError
        If the text is not YAML.
    """
    return _to_source(parse_config(text, source), source).policy


def load_policy(path: Path | None, mode: Mode | None = None) -> Policy:
    """Read a policy's folder or file, or the default policy, and override its mode if one is given.

    Raises
    ------
    PolicyError, FileFormatError
        As `parse_policy`, and if a file cannot be read.
    """
    policy = load_source(path).policy
    return policy if mode is None else msgspec.structs.replace(policy, mode=mode)


def load_source(path: Path | None) -> PolicySource:
    """Read a policy's folder or file, or the default policy, with its tests. Raises as `load_policy`."""
    if path is None:
        return _load_folder(files("deploy") / "policies" / "default", "the default policy")
    if path.is_dir():
        return _load_folder(path, f"policy {path}")
    if path.name == HEAD_FILE and (path.parent / RULES_FOLDER).is_dir():
        return _load_folder(path.parent, f"policy {path.parent}")
    return _to_source(read_config(path), f"policy file {path}")


def is_policy_folder(path: Path) -> bool:
    """Tell whether a path is a folder that holds a policy."""
    return (path / HEAD_FILE).is_file()


def _load_folder(folder: Traversable, source: str) -> PolicySource:
    head = folder / HEAD_FILE
    if not head.is_file():
        raise PolicyError(source, f"there is no {HEAD_FILE}", f"Name a folder with a {HEAD_FILE}")
    tree = parse_config(head.read_text(encoding="utf-8"), f"{source}, {HEAD_FILE}")
    names = tree.get("rules") if isinstance(tree, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        why = f"{HEAD_FILE} $.rules: in a folder it lists names of files in {RULES_FOLDER}/"
        raise PolicyError(source, why, "List the rules by name, the strictest first")
    rules = [_load_rule(folder / RULES_FOLDER / f"{name}.yaml", name, source) for name in names]
    found = (folder / RULES_FOLDER).iterdir() if (folder / RULES_FOLDER).is_dir() else ()
    stems = {file.name.removesuffix(".yaml") for file in found if file.name.endswith(".yaml")}
    whole = _to_source(tree | {"rules": []}, f"{source}, {HEAD_FILE}")
    policy = msgspec.structs.replace(whole.policy, rules=tuple(file.rule for file in rules))
    check_policy(policy, source)
    return PolicySource(policy=policy, rule_files=tuple(rules), unlisted=tuple(sorted(stems - set(names))))


def _load_rule(file: Traversable, name: str, source: str) -> RuleFile:
    where = f"{source}, {RULES_FOLDER}/{file.name}"
    if not file.is_file():
        why = f"there is no such file, though {HEAD_FILE} lists it"
        raise PolicyError(where, why, "Add the file, or take its name off the list")
    rule: RuleFile = _convert(parse_config(file.read_text(encoding="utf-8"), where), RuleFile, where)
    if rule.name != name:
        why = f"$.name: {rule.name}, which is not the file's name"
        raise PolicyError(where, why, "Give both the same name")
    return rule


class _Whole(Policy, frozen=True, kw_only=True, forbid_unknown_fields=True):
    rules: tuple[RuleFile, ...]  # with their tests


def _to_source(tree: object, source: str) -> PolicySource:
    whole: _Whole = _convert(tree, _Whole, source)
    fields = {name: getattr(whole, name) for name in Policy.__struct_fields__}
    policy = Policy(**fields | {"rules": tuple(file.rule for file in whole.rules)})
    check_policy(policy, source)
    return PolicySource(policy=policy, rule_files=whole.rules)


def _convert(tree: object, kind: Any, source: str) -> Any:
    try:
        return msgspec.convert(tree, kind)
    except msgspec.ValidationError as error:
        kinds: tuple[type[msgspec.Struct], ...] = (
            Policy, RuleFile, Conditions, Step, PolicyException, RuleTest, BreakerLimits,
        )  # fmt: skip
        known = [name for one in kinds for name in one.__struct_fields__]
        raise PolicyError(source, explain_form(error, known), _CORRECT) from error


def check_policy(policy: Policy, source: str) -> None:
    """Refuse what the types let through. Raises PolicyError."""
    names = [rule.name for rule in policy.rules]
    for at, rule in enumerate(policy.rules):
        path = f"$.rules[{at}]"
        if rule.name in names[:at]:
            raise PolicyError(source, f"{path}.name: used by an earlier rule", "Give every rule its own name")
        _check_steps(rule, path, source)
        _check_exceptions(rule.exceptions, path, source)
    _check_exceptions(policy.exceptions, "$", source)


def _check_steps(rule: Rule, path: str, source: str) -> None:
    for at, step in enumerate(rule.steps):
        where = f"{path}.parameters" if at == 0 else f"{path}.escalation[{at - 1}].parameters"
        try:
            check_parameters(step.action, step.parameters)
        except ParameterError as error:
            raise PolicyError(source, f"{where}: {error}", "Correct them") from error


def _check_exceptions(exceptions: tuple[PolicyException, ...], path: str, source: str) -> None:
    for at, item in enumerate(exceptions):
        if not (item.keys or item.tenants or item.plans or item.models):
            where = f"{path}.exceptions[{at}]"
            why = f"{where}: it names no key, tenant, plan or model, so it would cover everything"
            raise PolicyError(source, why, "Name what it covers, or use mode observe")
