"""One partition's work, from messages to commands: decode, detect, decide. No I/O.

Who calls it: the Faust worker (one pipeline per source partition), the embedded run and replay (one for all).
The same messages in the same order give the same outputs, however they are cut, and a restored pipeline goes
on as the dumped one would have. Not thread-safe.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import msgspec

from detectors.arrays import ArrayFormatError
from detectors.batch import is_synthetic
from detectors.engine import Engine, StateError
from detectors.reference import ModelReference
from sinks.policy import PolicyEngine, PolicyStateError
from sinks.policyfile import load_policy
from sinks.signing import load_signer
from streams.clock import SystemClock
from streams.codec import decode_events
from streams.deadletter import DeadLetterLimit
from streams.errors import SettingsError, StateVersionError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from detectors.alert import Alert
    from detectors.batch import EventBatch
    from sinks.policyfile import Policy
    from sinks.records import Command, Decision, Feedback
    from streams.bus.base import Message
    from streams.clock import Clock
    from streams.codec import Rejection
    from streams.settings import Settings

_ENGINE_PART, _POLICY_PART = "engine/", "policy"
REFERENCE_SUFFIX = ".reference"


@dataclass
class Outputs:
    """What came of some messages, each list in order of the events behind it."""

    alerts: list[Alert] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)
    events: int = 0
    """Events that were processed, rejections not counted."""


class _Dump(msgspec.Struct):
    version: Literal[1]
    engine: bytes
    policy: bytes


class Pipeline:
    """Decodes, detects and decides.

    Parameters
    ----------
    engine : Engine
    policy : PolicyEngine
    settings : Settings
        For the limits on messages and dead letters.
    clock : Clock, optional
        Refuses events that are ahead of it; without one the traffic is history, and no event is ahead.
    """

    def __init__(
        self, engine: Engine, policy: PolicyEngine, settings: Settings, clock: Clock | None = None
    ) -> None:
        self.engine = engine
        self._policy = policy
        self._settings = settings
        self._clock = clock
        self._limit = DeadLetterLimit(settings.dead_letters)
        self._policy_part = b""

    def process(self, messages: Sequence[Message], now_ms: int | None = None) -> Outputs:
        """Process messages of one topic, in order; `now_ms` stands in for the clock.

        Raises
        ------
        TooManyDeadLetters
            If so much was refused that going on would discard the input; nothing of these messages is in the
            state then.
        """
        if not messages:
            return Outputs()
        if now_ms is None and self._clock is not None:
            now_ms = self._clock.now_ms()
        batch, rejections = decode_events(
            messages,
            messages[0].topic,
            now_ms=now_ms,
            max_ahead_ms=1000 * self._settings.max_ahead_s,
            max_bytes=self._settings.max_message_bytes,
        )
        self._limit.record(0 if batch is None else len(batch), rejections)
        outputs = Outputs() if batch is None else self.process_batch(batch)
        outputs.rejections = rejections
        return outputs

    def process_batch(self, batch: EventBatch) -> Outputs:
        """Process events that are columns already."""
        alerts = self.engine.process(batch)
        decided = [self._policy.decide(alert) for alert in alerts if not is_synthetic(alert.key)]
        decisions = [decision for decision in decided if decision is not None]
        return Outputs(alerts, decisions, _commands(decisions), events=len(batch))

    def feedback(self, record: Feedback) -> Outputs:
        """Take a person's word: honest restores the key and lets the same finding pass; guilty ends that."""
        if record.verdict == "guilty":
            self.engine.condemn(record.key, record.model)
            self._policy.condemn(record)
            return Outputs()
        self.engine.forgive(record.key, record.model)
        decisions = [self._policy.forgive(record)]
        return Outputs(decisions=decisions, commands=_commands(decisions))

    def set_policy(self, policy: Policy) -> None:
        """Go on under another policy. Raises PolicyError, and then goes on under the old one."""
        self._policy.set_policy(policy)

    def dump(self) -> bytes:
        """Return the whole state, self-describing and versioned."""
        return msgspec.msgpack.encode(_Dump(1, self.engine.dump(), self._policy.dump()))

    def dump_parts(self, *, changed_only: bool) -> Iterator[tuple[str, bytes]]:
        """Yield the state in named parts, or those that changed since the last call (taken to its end).

        The newest part of each of `part_names` together restore the state as of this call. The pipeline must
        not be used between two parts.
        """
        for name, part in self.engine.dump_parts(changed_only=changed_only):
            yield _ENGINE_PART + name, part
        policy = self._policy.dump()
        if not changed_only or policy != self._policy_part:
            self._policy_part = policy
            yield _POLICY_PART, policy

    @property
    def part_names(self) -> frozenset[str]:
        """All parts of the state as last dumped."""
        return frozenset({_POLICY_PART, *(_ENGINE_PART + name for name in self.engine.part_names)})

    def restore_parts(self, parts: Mapping[str, bytes]) -> None:
        """Replace the state by the newest part of every name.

        Raises
        ------
        StateVersionError
            If they are damaged or were written by another version; the pipeline must then not be used.
        """
        engine = {n.removeprefix(_ENGINE_PART): p for n, p in parts.items() if n.startswith(_ENGINE_PART)}
        try:
            self.engine.restore_parts(engine)
            self._policy.restore(parts[_POLICY_PART])
        except (KeyError, StateError, PolicyStateError) as error:
            raise _cannot_restore(error) from error
        self._policy_part = parts[_POLICY_PART]

    def restore(self, blob: bytes) -> None:
        """Replace the state by a dump.

        Raises
        ------
        StateVersionError
            If the dump is damaged or was written by another version; the pipeline must then not be used.
        """
        try:
            dump = msgspec.msgpack.decode(blob, type=_Dump)
            self.engine.restore(dump.engine)
            self._policy.restore(dump.policy)
        except (msgspec.DecodeError, StateError, PolicyStateError) as error:
            raise _cannot_restore(error) from error


def _cannot_restore(error: Exception) -> StateVersionError:
    return StateVersionError(
        "cannot restore a pipeline's state",
        str(error),
        "Run the version that wrote it, or begin anew by deleting the state (deploy/docs/state.md)",
    )


def _commands(decisions: Sequence[Decision]) -> list[Command]:
    return [decision.command for decision in decisions if decision.command is not None]


def build_pipeline(
    settings: Settings,
    *,
    live: bool = True,
    references: Mapping[str, ModelReference] | None = None,
) -> Pipeline:
    """Make an empty pipeline.

    Parameters
    ----------
    settings : Settings
    live : bool
        Whether events come as they happen, so that one ahead of the clock is refused; False for history.
    references : mapping of str to ModelReference, optional
        By model, in place of the files at `settings.references_path`.

    Raises
    ------
    ModelwardenError
        If the policy, the signing key or a reference cannot be used; the message says what to do.
    """
    if references is None:
        path = settings.references_path
        references = {} if path is None else load_references(path)
    signer = None if settings.signing_key_file is None else load_signer(settings.signing_key_file)
    policy = PolicyEngine(load_policy(settings.policy_file, settings.policy_mode), signer)
    engine = Engine(settings.engine, references)
    return Pipeline(engine, policy, settings, SystemClock() if live else None)


@lru_cache(maxsize=4)
def load_references(path: Path) -> Mapping[str, ModelReference]:
    """Read a reference file, or all `*.reference` of a folder, by model; once, for all partitions.

    Raises
    ------
    SettingsError
        If there is none, or one cannot be read.
    """
    found = sorted(path.glob(f"*{REFERENCE_SUFFIX}")) if path.is_dir() else [path]
    if not found:
        raise SettingsError(
            f"references_path {path}", f"it has no *{REFERENCE_SUFFIX}", "Correct the path, or leave it out"
        )
    references: dict[str, ModelReference] = {}
    for file in found:
        try:
            reference = ModelReference.load(file.read_bytes())
        except (OSError, ArrayFormatError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise SettingsError(
                f"reference {file}", why, "Correct the path, or fit the reference again"
            ) from error
        if reference.model in references:
            why = f"model {reference.model} has another reference in the same folder"
            raise SettingsError(f"reference {file}", why, "Keep one of them")
        references[reference.model] = reference
    return references
