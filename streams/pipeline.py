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
import numpy as np

from detectors.arrays import ArrayFormatError
from detectors.engine import Engine, StateError
from detectors.reference import ModelReference
from sinks.audit import AuditChain
from sinks.policy import PolicyEngine, PolicyStateError
from sinks.policyfile import load_policy
from sinks.policytopic import PolicyChange, PolicyInForce
from sinks.signing import load_signer
from streams.clock import SystemClock
from streams.codec import decode_events
from streams.deadletter import DeadLetterLimit
from streams.errors import SettingsError, SigningError, StateVersionError
from streams.recordblock import topic_of
from streams.samples import load_references as load_shipped_references
from streams.trust import trusted_keys

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from detectors.alert import Alert
    from detectors.batch import EventBatch
    from sinks.records import (
        Acknowledgement,
        AuditEntry,
        Command,
        Decision,
        Feedback,
        Notice,
        OperatorAction,
    )
    from sinks.trustedkeys import TrustedKeys
    from streams.bus.base import Message
    from streams.clock import Clock
    from streams.codec import Rejection
    from streams.settings import Settings

_ENGINE_PART, _POLICY_PART, _AUDIT_PART = "engine/", "policy", "audit"
_MINUTE_MS = 60_000
REFERENCE_SUFFIX = ".reference"


@dataclass
class Outputs:
    """What came of some messages, each list in order of the events behind it."""

    alerts: list[Alert] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    audit: list[AuditEntry] = field(default_factory=list)
    """Everything above and what led to it, sealed in the partition's chain."""
    notices: list[Notice] = field(default_factory=list)
    verdicts: list[Literal["honest", "guilty"]] = field(default_factory=list)
    """People's, on keys."""
    rejections: list[Rejection] = field(default_factory=list)
    events: int = 0
    """Events that were processed, rejections not counted."""


class _Dump(msgspec.Struct):
    version: Literal[2]
    engine: bytes
    policy: bytes
    audit: bytes


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
    trusted : TrustedKeys, optional
        Verify what people decide; without them that is refused.
    """

    def __init__(
        self,
        engine: Engine,
        policy: PolicyEngine,
        settings: Settings,
        clock: Clock | None = None,
        trusted: TrustedKeys | None = None,
    ) -> None:
        self.engine = engine
        self._policy = policy
        self._settings = settings
        self._clock = clock
        self._trusted = trusted
        self._limit = DeadLetterLimit(settings.dead_letters)
        self._chain = AuditChain()
        self._dumped: dict[str, bytes] = {}

    @property
    def is_breaker_open(self) -> bool:
        """Whether the policy's breaker holds commands back."""
        return self._policy.is_breaker_open

    def set_place(self, partition: int, partitions: int) -> None:
        """Tell which source partition this is, of how many; before anything is processed or restored."""
        self._policy.set_place(partition, partitions)
        self._chain = AuditChain(partition)

    def learned(self) -> list[ModelReference]:
        """Return the newest references that models have learned from this pipeline's traffic."""
        return self.engine.learned()

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
            topic_of(messages),
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
        outputs = Outputs(events=len(batch))
        counted = 0
        for alert in self.engine.process(batch):
            upto = max(counted, int(np.searchsorted(batch.offset, alert.offset, "right")))
            self._count_calls(batch.time_ms[counted:upto])
            counted = upto
            outputs.alerts.append(alert)
            outputs.audit.append(self._chain.append("alert", alert, alert.time_ms))
            self._settle(outputs, [self._policy.decide(alert)])
        self._count_calls(batch.time_ms[counted:])
        return outputs

    def _count_calls(self, times_ms: NDArray[np.int64]) -> None:
        """Tell the breaker how many calls each minute had, whatever batches they came in."""
        if not len(times_ms):
            return
        first, last = int(times_ms.min()) // _MINUTE_MS, int(times_ms.max()) // _MINUTE_MS
        if first == last:
            self._policy.count_calls({first: len(times_ms)})
            return
        minutes, counts = np.unique(times_ms // _MINUTE_MS, return_counts=True)
        self._policy.count_calls(dict(zip(minutes.tolist(), counts.tolist(), strict=True)))

    def _settle(self, outputs: Outputs, decided: Sequence[Decision | None]) -> None:
        """Put decisions, their commands and what operators must be told into the outputs and the chain."""
        for decision in decided:
            if decision is None:
                continue
            outputs.decisions.append(decision)
            if decision.command is not None:
                outputs.commands.append(decision.command)
            outputs.audit.append(self._chain.append("decision", decision, decision.time_ms))
        for notice in self._policy.take_notices():
            outputs.notices.append(notice)
            outputs.audit.append(self._chain.append("notice", notice, notice.time_ms))

    def feedback(self, record: Feedback) -> Outputs:
        """Take a person's word: honest restores the key and lets the same finding pass; guilty ends that."""
        outputs = Outputs(verdicts=[record.verdict])
        outputs.audit.append(self._chain.append("feedback", record, record.time_ms))
        if record.verdict == "guilty":
            self.engine.condemn(record.key, record.model)
            self._policy.condemn(record)
            return outputs
        self.engine.forgive(record.key, record.model)
        self._settle(outputs, [self._policy.forgive(record)])
        return outputs

    def operate(self, action: OperatorAction) -> Outputs:
        """Do what a person has decided.

        Raises
        ------
        SigningError
            If it is not signed by a key that is trusted for operators; nothing has changed then.
        """
        if self._trusted is None:
            raise SigningError(
                f"operator action {action.action_id}",
                "no keys are trusted here",
                "Set trusted_keys_file, or signing_key_file",
            )
        self._trusted.verify(action, "operators", action.time_ms)
        outputs = Outputs(audit=[self._chain.append("operator_action", action, action.time_ms)])
        decision = self._policy.operate(action)
        if decision is not None and action.action in {"undo", "grant_appeal"}:
            self.engine.forgive(action.key, action.model)
            outputs.verdicts.append("honest")
        self._settle(outputs, [decision])
        return outputs

    def acknowledge(self, record: Acknowledgement) -> Outputs:
        """Put on record what a serving layer says became of a command."""
        return Outputs(audit=[self._chain.append("acknowledgement", record, record.time_ms)])

    def set_policy(self, wanted: PolicyInForce) -> Outputs:
        """Go on under another policy and allowlist; what they cover now is restored.

        Raises
        ------
        PolicyError
            If the policy cannot be in force here; the one before stays.
        """
        outputs = Outputs()
        covered = self._policy.set_policy(wanted.policy)
        change = PolicyChange(
            policy_version=wanted.policy_version,
            mode=wanted.mode,
            sequence=wanted.sequence,
            author=wanted.author,
            reason=wanted.reason,
            breaker_resets=wanted.breaker_resets,
        )
        outputs.audit.append(self._chain.append("policy", change, wanted.issued_ms))
        for allow in wanted.allowlist:
            if allow not in self._policy.allowlist:
                outputs.audit.append(self._chain.append("allow", allow, allow.issued_ms))
        covered += self._policy.set_allowlist(wanted.allowlist)
        self._policy.reset_breaker(wanted.breaker_resets)
        self._settle(outputs, covered)
        return outputs

    def begin(self, wanted: PolicyInForce) -> None:
        """Set the policy that the state was made under, before it is restored: nothing follows from that.

        Raises
        ------
        PolicyError
            If it cannot be in force here.
        """
        self._policy.set_policy(wanted.policy)
        self._policy.set_allowlist(wanted.allowlist)

    def dump(self) -> bytes:
        """Return the whole state, self-describing and versioned."""
        return msgspec.msgpack.encode(_Dump(2, self.engine.dump(), self._policy.dump(), self._chain.dump()))

    def dump_parts(self, *, changed_only: bool) -> Iterator[tuple[str, bytes]]:
        """Yield the state in named parts, or those that changed since the last call (taken to its end).

        The newest part of each of `part_names` together restore the state as of this call. The pipeline must
        not be used between two parts.
        """
        for name, part in self.engine.dump_parts(changed_only=changed_only):
            yield _ENGINE_PART + name, part
        for name, part in ((_POLICY_PART, self._policy.dump()), (_AUDIT_PART, self._chain.dump())):
            if not changed_only or part != self._dumped.get(name):
                self._dumped[name] = part
                yield name, part

    @property
    def part_names(self) -> frozenset[str]:
        """All parts of the state as last dumped."""
        return frozenset(
            {_POLICY_PART, _AUDIT_PART, *(_ENGINE_PART + name for name in self.engine.part_names)}
        )

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
            self._chain.restore(parts[_AUDIT_PART])
        except (KeyError, StateError, PolicyStateError, msgspec.MsgspecError) as error:
            raise _cannot_restore(error) from error
        self._dumped = {name: parts[name] for name in (_POLICY_PART, _AUDIT_PART)}

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
            self._chain.restore(dump.audit)
        except (msgspec.MsgspecError, StateError, PolicyStateError) as error:
            raise _cannot_restore(error) from error


def _cannot_restore(error: Exception) -> StateVersionError:
    return StateVersionError(
        "cannot restore a pipeline's state",
        str(error),
        "Run the version that wrote it, or begin anew by deleting the state (deploy/docs/state.md)",
    )


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
    engine = Engine(settings.engine, references, load_shipped_references())
    return Pipeline(engine, policy, settings, SystemClock() if live else None, trusted_keys(settings))


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
