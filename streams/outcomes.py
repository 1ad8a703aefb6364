"""What a run over labelled traces found: alarms placed by offset, judged by budget, summed up.

Used by `streams.evaluate`, which says who calibrates and what is run.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from detectors.alert import is_budget_alert
from streams.report import (
    BUDGETS,
    AmongCustomers,
    BenignShare,
    DayCount,
    FalseCampaigns,
    FalseModelAlarms,
    FileOutcome,
    Outcome,
)
from streams.traces import WEEK_START_MS, arrival_order

if TYPE_CHECKING:
    from collections.abc import Sequence

    from detectors.alert import Alert
    from streams.traces import KeyTrace

DAY_MS = 86_400_000


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


def benign_shares(outcomes: Sequence[Outcome]) -> list[BenignShare]:
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


def alarmed_days(found: Findings) -> list[DayCount]:
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
