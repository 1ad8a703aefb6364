"""The evaluation protocol: labelled traces in, a comparable report out.

Per victim, benign keys with an even number calibrate and odd ones are measured; cover traffic calibrates
nothing. Every file runs through an engine of its own, its keys interleaved by time. The engine's levels are
the budgets: any alert is an alarm at 1 % of benign keys alarmed in their lifetime, `warning` and above at
0.1 %; what a key holds of the model (`detectors.budget`) is reported beside them and is no alarm. Alarms are
placed by the offset of the event that completed them, never by what the engine counts.
The report holds no time, path or chance: two runs on the same files are identical to the byte.
"""

from __future__ import annotations

import fnmatch
from collections import defaultdict
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from detectors.alert import is_budget_alert
from detectors.calibration import fit_reference
from detectors.engine import Engine, EngineSettings
from sinks.errors import ModelwardenError
from streams.modeltrials import LEAST_KEYS, model_trials
from streams.report import (
    BUDGETS,
    AmongCustomers,
    BenignShare,
    DayCount,
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
from streams.traces import WEEK_START_MS, KeyTrace, arrival_order, interleave

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from detectors.alert import Alert
    from detectors.reference import ModelReference

CHUNK = 4096
REFERENCE_KEYS = 2
"""Fewest keys that a reference can be fitted to."""
DAY_MS = 86_400_000


class EvaluationError(ModelwardenError):
    """The traces cannot be evaluated by the protocol."""


def evaluate(
    traces: Sequence[KeyTrace],
    settings: EngineSettings | None = None,
    tick: Callable[[int], None] | None = None,
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

    Raises
    ------
    EvaluationError
        If a victim with traces to run has no reference keys.
    """
    settings = settings or EngineSettings()
    references = calibrate(traces)
    outcomes: list[Outcome] = []
    files: list[FileOutcome] = []
    false_campaigns: list[FalseCampaigns] = []
    trials: list[ModelTrial] = []
    false_alarms: list[FalseModelAlarms] = []
    groups = _by_source(to_run(traces))

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
    notes = tuple(
        ReferenceNote(
            victim=victim, keys=len(keys), events=sum(map(len, keys)), version=references[victim].version
        )
        for victim, keys in _reference_keys(traces).items()
    )
    report = _report("calibrated", settings, outcomes)
    return msgspec.structs.replace(
        report,
        files=tuple(files),
        references=notes,
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
    return msgspec.structs.replace(_report("live", settings, found.outcomes()), days=tuple(_days(found)))


def calibrate(traces: Sequence[KeyTrace]) -> dict[str, ModelReference]:
    """Fit each victim's reference on its even-numbered benign keys, and on nothing else.

    Raises
    ------
    EvaluationError
        If a victim has fewer than two such keys.
    """
    keys = _reference_keys(traces)
    for victim in sorted({trace.victim for trace in traces}):
        if len(keys.get(victim, [])) < REFERENCE_KEYS:
            raise EvaluationError(
                f"victim {victim}",
                f"fewer than {REFERENCE_KEYS} benign keys with an even number, so nothing to calibrate on",
                f"Put {victim}__benign__s<seed>.npz into the folder, or remove the files of {victim}",
            )
    return {
        victim: fit_reference(victim, [trace.batch() for trace in group]) for victim, group in keys.items()
    }


def is_reference(trace: KeyTrace) -> bool:
    """Tell whether the key calibrates: benign (not cover) and of an even number."""
    return trace.kind == "benign" and trace.number % 2 == 0


def to_run(traces: Sequence[KeyTrace]) -> list[KeyTrace]:
    """Choose what is measured: odd benign keys, attacks of every kind, and the control of the mixes."""
    return [
        trace
        for trace in traces
        if not is_reference(trace) and (trace.kind != "cover" or trace.source.startswith("derived__"))
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


class Findings:
    """The alerts of one run over interleaved keys, placed by offset."""

    def __init__(self, traces: Sequence[KeyTrace], alerts: Sequence[Alert]) -> None:
        self.traces = traces
        self.owner, self.row = arrival_order(traces)
        place = {trace.key_reference: index for index, trace in enumerate(traces)}
        self.alerts = tuple(alerts)
        self.campaigns = [alert for alert in alerts if alert.subject == "campaign"]
        self.by_trace: dict[int, list[Alert]] = defaultdict(list)
        self.budget_alerts: dict[int, Alert] = {}
        for alert in alerts:
            if is_budget_alert(alert):
                self.budget_alerts.setdefault(place[alert.key], alert)
            elif alert.subject == "key":
                self.by_trace[place[alert.key]].append(alert)

    def first(self, index: int, budget: str) -> Alert | None:
        """Return the key's first alarm at a budget."""
        return next((alert for alert in self.by_trace[index] if alert.level in BUDGETS[budget]), None)

    def outcomes(self) -> list[Outcome]:
        """Judge every key at every budget."""
        return [self._outcome(index, budget) for index in range(len(self.traces)) for budget in BUDGETS]

    def _outcome(self, index: int, budget: str) -> Outcome:
        trace, alert = self.traces[index], self.first(index, budget)
        told = self.budget_alerts.get(index)
        query = None if alert is None else int(self.row[alert.offset]) + 1
        ever = {f for a in self.by_trace[index] if a.level in BUDGETS[budget] for f in a.families}
        return Outcome(
            source=trace.source,
            number=trace.number,
            victim=trace.victim,
            kind=trace.kind,
            attack=trace.attack,
            persona=trace.persona,
            budget=budget,
            queries=len(trace),
            attack_queries=int(trace.is_attack.sum()),
            first_alarm_query=query,
            first_alarm_attack_query=None if query is None else int(trace.is_attack[:query].sum()),
            delay_ms=None if query is None else int(trace.time_ms[query - 1] - trace.time_ms[0]),
            families=() if alert is None else alert.families,
            families_ever=tuple(sorted(ever)),
            sentence=None if alert is None else alert.sentence,
            first_budget_alert_query=None if told is None else int(self.row[told.offset]) + 1,
        )

    def file_outcomes(self, among: Findings | None = None) -> list[FileOutcome]:
        """Judge the file as a whole at every budget; all keys must come from one file.

        `among` is a run of the same keys together with honest ones.
        """
        return [self._file_outcome(budget, among) for budget in BUDGETS]

    def _file_outcome(self, budget: str, among: Findings | None) -> FileOutcome:
        trace = self.traces[0]
        alarms = [alert for i in range(len(self.traces)) if (alert := self.first(i, budget)) is not None]
        linked = [alert.offset + 1 for alert in self._campaigns(budget)]
        queries = [int(self.row[alert.offset]) + 1 for alert in alarms]
        return FileOutcome(
            source=trace.source,
            victim=trace.victim,
            kind=trace.kind,
            attack=trace.attack,
            budget=budget,
            keys=len(self.traces),
            keys_alarmed=len(alarms),
            median_alarm_query=float(np.median(queries)) if queries else None,
            first_alarm_query_in_all=min((alert.offset + 1 for alert in alarms), default=None),
            first_linked_alarm_query_in_all=min(linked, default=None),
            keys_linked=self.most_linked(trace.source, budget)[0],
            among_customers=None if among is None else among.linked_of(trace.source, budget),
            families=tuple(sorted({family for alert in alarms for family in alert.families})),
        )

    def linked_of(self, source: str, budget: str) -> AmongCustomers:
        """Say what campaigns hold of a file's keys, which ran among others."""
        mine = {index for index, trace in enumerate(self.traces) if trace.source == source}
        references = {self.traces[index].key_reference for index in mine}
        linked = [
            int(np.isin(self.owner[: alert.offset + 1], list(mine)).sum())
            for alert in self._campaigns(budget)
            if len(references.intersection(alert.members)) > len(alert.members) / 2
        ]
        most, strangers = self.most_linked(source, budget)
        return AmongCustomers(
            first_linked_alarm_query_in_all=min(linked, default=None),
            keys_linked=most,
            strangers_linked=strangers,
        )

    def most_linked(self, source: str, budget: str) -> tuple[int, int]:
        """Return the most keys of a file in one campaign, and how many other keys that campaign holds."""
        references = {trace.key_reference for trace in self.traces if trace.source == source}
        held = [(len(references.intersection(a.members)), len(a.members)) for a in self._campaigns(budget)]
        most, size = max(held, default=(0, 0), key=lambda pair: (pair[0], -pair[1]))
        return most, size - most

    def false_campaigns(self) -> list[FalseCampaigns]:
        """Count the campaign alarms at every budget; all keys must be honest ones of one file."""
        trace = self.traces[0]
        return [
            FalseCampaigns(
                source=trace.source,
                victim=trace.victim,
                budget=budget,
                keys=len(self.traces),
                alarms=len(self._campaigns(budget)),
            )
            for budget in BUDGETS
        ]

    def false_model_alarms(self) -> list[FalseModelAlarms]:
        """Count the model's alarms at every budget; all keys must be honest ones of one file."""
        trace = self.traces[0]
        times = np.concatenate([trace.time_ms for trace in self.traces])
        return [
            FalseModelAlarms(
                source=trace.source,
                victim=trace.victim,
                budget=budget,
                alarms=sum(alert.subject == "model" and alert.level in levels for alert in self.alerts),
                weeks=float(times.max() - times.min()) / (7 * DAY_MS),
            )
            for budget, levels in BUDGETS.items()
        ]

    def _campaigns(self, budget: str) -> list[Alert]:
        return [alert for alert in self.campaigns if alert.level in BUDGETS[budget]]


def _watch(engine: Engine, traces: Sequence[KeyTrace], tick: Callable[[int], None] | None) -> Findings:
    batch = interleave(traces)
    alerts: list[Alert] = []
    for start in range(0, len(batch), CHUNK):
        part = batch.take(slice(start, start + CHUNK))
        alerts += engine.process(part)
        if tick is not None:
            tick(len(part))
    return Findings(traces, alerts)


def _reference_keys(traces: Sequence[KeyTrace]) -> dict[str, list[KeyTrace]]:
    keys: dict[str, list[KeyTrace]] = defaultdict(list)
    for trace in traces:
        if is_reference(trace):
            keys[trace.victim].append(trace)
    return dict(sorted(keys.items()))


def _by_source(traces: Sequence[KeyTrace]) -> list[list[KeyTrace]]:
    groups: dict[str, list[KeyTrace]] = defaultdict(list)
    for trace in traces:
        groups[trace.source].append(trace)
    return [groups[source] for source in sorted(groups)]


def _benign_shares(outcomes: Sequence[Outcome]) -> list[BenignShare]:
    """Count alarmed benign keys per victim and budget, in all (persona None) and by persona."""
    groups: dict[tuple[str, str, str], list[bool]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.kind == "benign":
            for persona in ("", outcome.persona or "unnamed"):
                alarmed = outcome.first_alarm_query is not None
                groups[outcome.victim, persona, outcome.budget].append(alarmed)
    return [
        BenignShare(
            victim=victim,
            persona=persona or None,
            budget=budget,
            keys=len(alarmed),
            alarmed=sum(alarmed),
            share=round(sum(alarmed) / len(alarmed), 6),
        )
        for (victim, persona, budget), alarmed in sorted(groups.items())
    ]


def _days(found: Findings) -> list[DayCount]:
    """Count, per day from the first to the last event, the benign keys whose first alarm fell on it."""
    benign = [index for index, trace in enumerate(found.traces) if trace.kind == "benign"]
    last = max(int(trace.time_ms[-1]) for trace in found.traces)
    return [
        DayCount(
            day=day,
            budget=budget,
            benign_keys_alarmed=sum(
                alert is not None and (alert.time_ms - WEEK_START_MS) // DAY_MS + 1 == day
                for alert in (found.first(index, budget) for index in benign)
            ),
        )
        for day in range(1, (last - WEEK_START_MS) // DAY_MS + 2)
        for budget in BUDGETS
    ]


def _report(mode: str, settings: EngineSettings, outcomes: Sequence[Outcome]) -> Report:
    """Make a report without the parts that only one mode has."""
    return Report(
        mode=mode,
        versions=versions(),
        settings=settings,
        budgets={name: tuple(levels) for name, levels in BUDGETS.items()},
        references=(),
        benign=tuple(_benign_shares(outcomes)),
        files=(),
        false_campaigns=(),
        model_trials=(),
        false_model_alarms=(),
        days=(),
        traces=tuple(outcomes),
    )
