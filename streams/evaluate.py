"""The evaluation protocol: labelled traces in, a comparable report out.

Per victim, benign keys with an even number calibrate and odd ones are measured, or the other way round; cover
traffic calibrates nothing. Every file runs through an engine of its own, its keys interleaved by time. The
engine's levels are the budgets: any alert is an alarm at 1 % of benign keys alarmed in their lifetime,
`warning` and above at 0.1 %; what a key holds of the model (`detectors.budget`) is reported beside them and
is no alarm. Alarms are placed by the offset of the event that completed them, never by what the engine
counts. The report holds no time, path or chance: two runs on the same files are identical to the byte.
"""

from __future__ import annotations

import fnmatch
from collections import defaultdict
from typing import TYPE_CHECKING, Literal

import msgspec

from detectors.calibration import fit_reference
from detectors.engine import Engine, EngineSettings
from sinks.errors import ModelwardenError
from streams.modeltrials import LEAST_KEYS, model_trials
from streams.outcomes import Findings, alarmed_days, benign_shares
from streams.report import (
    BUDGETS,
    FalseCampaigns,
    FalseModelAlarms,
    FileOutcome,
    ModelTrial,
    Outcome,
    ReferenceNote,
    Report,
    versions,
)
from streams.samples import load_references
from streams.traces import KeyTrace, interleave

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from detectors.alert import Alert
    from detectors.reference import ModelReference

CHUNK = 4096
Half = Literal["even", "odd"]
"""Of the benign keys, by their numbers."""
REFERENCE_KEYS = 2
"""Fewest keys that a reference can be fitted to."""


class EvaluationError(ModelwardenError):
    """The traces cannot be evaluated by the protocol."""


def evaluate(
    traces: Sequence[KeyTrace],
    settings: EngineSettings | None = None,
    tick: Callable[[int], None] | None = None,
    half: Half = "even",
) -> Report:
    """Calibrate on the reference keys, run everything else, and report.

    Parameters
    ----------
    traces : sequence of KeyTrace
        A whole folder.
    settings : EngineSettings, optional
        The defaults if not given.
    tick : callable, optional
        Told after every chunk how many events were processed.
    half : "even" or "odd"
        Which benign keys calibrate.

    Raises
    ------
    EvaluationError
        If a victim with traces to run has no reference keys.
    """
    settings = settings or EngineSettings()
    references = calibrate(traces, half)
    outcomes: list[Outcome] = []
    files: list[FileOutcome] = []
    false_campaigns: list[FalseCampaigns] = []
    trials: list[ModelTrial] = []
    false_alarms: list[FalseModelAlarms] = []
    groups = _by_source(to_run(traces, half))

    def run(keys: Sequence[KeyTrace]) -> Findings:
        return _watch(Engine(settings, {keys[0].victim: references[keys[0].victim]}), keys, tick)

    for group in groups:
        found = run(group)
        outcomes += found.outcomes()
        if group[0].kind == "benign":
            false_campaigns += found.false_campaigns()
            false_alarms += found.false_model_alarms()
            continue
        customers = [t for g in groups for t in g if (t.kind, t.victim) == ("benign", group[0].victim)]
        files += found.file_outcomes(run([*group, *customers]) if group[0].kind == "split" else None)
        if group[0].kind == "attack" and len(group) >= LEAST_KEYS and customers:
            trials += model_trials(customers, group, lambda keys: run(keys).alerts)
    report = _report("calibrated", settings, outcomes)
    return msgspec.structs.replace(
        report,
        calibrated_on=half,
        files=tuple(files),
        references=_reference_notes(references, _reference_keys(traces, half)),
        false_campaigns=tuple(false_campaigns),
        model_trials=tuple(trials),
        false_model_alarms=tuple(false_alarms),
    )


def evaluate_live(
    traces: Sequence[KeyTrace],
    settings: EngineSettings | None = None,
    tick: Callable[[int], None] | None = None,
) -> Report:
    """Run all traces interleaved by time through one engine that knows none of their models, and report.

    As in production it borrows from the shipped references, but never from one of a model of the same name.
    """
    settings = settings or EngineSettings()
    found = _watch(Engine(settings, {}, load_references()), traces, tick)
    return msgspec.structs.replace(
        _report("live", settings, found.outcomes()), days=tuple(alarmed_days(found))
    )


def calibrate(traces: Sequence[KeyTrace], half: Half = "even") -> dict[str, ModelReference]:
    """Fit each victim's reference on one half of its benign keys, and on nothing else.

    Raises
    ------
    EvaluationError
        If a victim has fewer than two such keys.
    """
    keys = _reference_keys(traces, half)
    for victim in sorted({trace.victim for trace in traces}):
        if len(keys.get(victim, [])) < REFERENCE_KEYS:
            raise EvaluationError(
                f"victim {victim}",
                f"fewer than {REFERENCE_KEYS} benign keys with an {half} number, so nothing to calibrate on",
                f"Put {victim}__benign__s<seed>.npz into the folder, or remove the files of {victim}",
            )
    return {
        victim: fit_reference(victim, [trace.batch() for trace in group]) for victim, group in keys.items()
    }


def is_reference(trace: KeyTrace, half: Half = "even") -> bool:
    """Tell whether the key calibrates: benign (not cover) and of that half."""
    return trace.kind == "benign" and trace.number % 2 == (half == "odd")


def to_run(traces: Sequence[KeyTrace], half: Half = "even") -> list[KeyTrace]:
    """Choose what is measured: the other half of the benign keys, all attacks, and the mixes' control."""
    return [
        trace
        for trace in traces
        if not is_reference(trace, half) and (trace.kind != "cover" or trace.source.startswith("derived__"))
    ]


def choose_live(traces: Sequence[KeyTrace], patterns: Sequence[str]) -> list[KeyTrace]:
    """Choose all benign keys, and attacks whose name or file matches a pattern; with none, undivided attacks.

    Raises
    ------
    EvaluationError
        If a pattern matches no attack.
    """
    attacks = [trace for trace in traces if trace.kind not in {"benign", "cover"}]
    names = {str(trace.attack) for trace in attacks} | {trace.source for trace in attacks}
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            known = ", ".join(sorted({str(trace.attack) for trace in attacks}))
            raise EvaluationError(f"--attacks {pattern}", "matches no attack", f"Choose from {known}")

    def wanted(trace: KeyTrace) -> bool:
        if trace.kind in {"benign", "cover"} or not patterns:
            return trace.kind in {"benign", "attack"}
        return any(fnmatch.fnmatch(n, p) for n in (str(trace.attack), trace.source) for p in patterns)

    return [trace for trace in traces if wanted(trace)]


def _watch(engine: Engine, traces: Sequence[KeyTrace], tick: Callable[[int], None] | None) -> Findings:
    batch = interleave(traces)
    alerts: list[Alert] = []
    for start in range(0, len(batch), CHUNK):
        part = batch.take(slice(start, start + CHUNK))
        alerts += engine.process(part)
        if tick is not None:
            tick(len(part))
    return Findings(traces, alerts)


def _reference_keys(traces: Sequence[KeyTrace], half: Half) -> dict[str, list[KeyTrace]]:
    keys: dict[str, list[KeyTrace]] = defaultdict(list)
    for trace in traces:
        if is_reference(trace, half):
            keys[trace.victim].append(trace)
    return dict(sorted(keys.items()))


def _reference_notes(
    references: Mapping[str, ModelReference], keys: Mapping[str, Sequence[KeyTrace]]
) -> tuple[ReferenceNote, ...]:
    return tuple(
        ReferenceNote(
            victim=victim, keys=len(group), events=sum(map(len, group)), version=references[victim].version
        )
        for victim, group in keys.items()
    )


def _by_source(traces: Sequence[KeyTrace]) -> list[list[KeyTrace]]:
    groups: dict[str, list[KeyTrace]] = defaultdict(list)
    for trace in traces:
        groups[trace.source].append(trace)
    return [groups[source] for source in sorted(groups)]


def _report(mode: str, settings: EngineSettings, outcomes: Sequence[Outcome]) -> Report:
    """Make a report without the parts that only one mode has."""
    return Report(
        mode=mode,
        versions=versions(),
        settings=settings,
        budgets={name: tuple(levels) for name, levels in BUDGETS.items()},
        references=(),
        benign=tuple(benign_shares(outcomes)),
        files=(),
        false_campaigns=(),
        model_trials=(),
        false_model_alarms=(),
        days=(),
        traces=tuple(outcomes),
    )
