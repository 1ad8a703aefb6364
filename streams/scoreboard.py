"""The scoreboard of an evaluation, for people: benign share by persona, then attacks by budget."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from streams.report import BUDGETS, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console

    from streams.report import BenignShare, FileOutcome, ModelTrial, Report

NEVER = Text("never", "red")
MIN_TITLE_WIDTH = 60
LEGEND = (
    "Queries to the first alarm; in brackets the attack queries among them, for campaigns the most keys in "
    "one. Several keys: keys alarmed of all, median query of those. Held: no alarm; the query at which a key "
    "holds as much as a copy of the model needs."
)


def show(report: Report, console: Console) -> None:
    """Print the whole report."""
    for table in tables(report):
        console.print(table)
    if report.mode != "live":
        alarms = sum(count.alarms for count in report.false_campaigns if count.budget == "1 %")
        console.print(f"{LEGEND} Campaign alarms among honest keys alone: {alarms}.", style="dim")


def tables(report: Report) -> list[Table]:
    """Return the report as tables."""
    made = [
        _benign(victim, [share for share in report.benign if share.victim == victim], report)
        for victim in sorted({share.victim for share in report.benign})
    ]
    if report.mode == "live":
        return [*made, _days(report), _live(report)]
    made.append(_attacks(report))
    if any(file.kind == "split" for file in report.files):
        made.append(_campaigns(report))
    if report.model_trials:
        made.append(_model_trials(report))
    return made


def _table(title: str, *columns: str, left: int = 1) -> Table:
    """Make a table whose first `left` columns are text and the others numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.pad_edge, table.min_width = False, MIN_TITLE_WIDTH
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", no_wrap=True)
    return table


def _benign(victim: str, shares: Sequence[BenignShare], report: Report) -> Table:
    note = next((note for note in report.references if note.victim == victim), None)
    basis = f"calibrated on {note.keys} others" if note else "nothing calibrated before"
    table = _table(f"Benign keys of {victim} alarmed ({basis})", "persona", "keys", *BUDGETS, "held")
    by_persona: dict[str | None, dict[str, BenignShare]] = defaultdict(dict)
    for share in shares:
        by_persona[share.persona][share.budget] = share
    for persona, row in by_persona.items():
        cells = [_share(row[budget]) for budget in BUDGETS]
        told = sum(
            outcome.first_budget_alert_query is not None
            for outcome in report.traces
            if (outcome.kind, outcome.victim, outcome.budget) == ("benign", victim, "1 %")
            and persona in {None, outcome.persona or "unnamed"}
        )
        style = "bold" if persona is None else ""
        table.add_row(persona or "all", str(row["1 %"].keys), *cells, str(told), style=style)
    return table


def _share(share: BenignShare) -> Text:
    if not share.alarmed:
        return Text("0", "green")
    return Text(f"{share.alarmed} ({100 * share.share:.1f} %)", "yellow")


def _attacks(report: Report) -> Table:
    table = _table(
        "Attacks", "victim", "attack", "keys", "queries", *BUDGETS, "held", "families at 1 %", left=2
    )
    table.columns[-1].justify, table.columns[-1].no_wrap = "left", False
    outcomes: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for outcome in report.traces:
        outcomes[outcome.source, outcome.budget].append(outcome)
    for source, files in _grouped(report.files):
        keys = outcomes[source, "1 %"]
        name = files["1 %"].attack or source.removeprefix(f"derived__{files['1 %'].victim}__") + " (control)"
        cells = [_found(files[budget], outcomes[source, budget]) for budget in BUDGETS]
        families = ", ".join(files["1 %"].families).replace("_", " ")
        table.add_row(
            files["1 %"].victim,
            name,
            str(len(keys)),
            str(sum(k.queries for k in keys)),
            *cells,
            _told(keys),
            families,
        )
    return table


def _told(keys: Sequence[Outcome]) -> str:
    """Write at which query the first of these keys held what a copy needs."""
    told = [k.first_budget_alert_query for k in keys if k.first_budget_alert_query is not None]
    return str(min(told)) if told else "-"


def _campaigns(report: Report) -> Table:
    """Tell of every file whose keys belong together when they were linked."""
    table = _table(
        "Campaigns: queries in all until keys were linked", "victim", "attack", "keys", *BUDGETS, left=2
    )
    for source, files in _grouped(report.files):
        if files["1 %"].kind == "split":
            name = files["1 %"].attack or source
            cells = [_linked(files[budget]) for budget in BUDGETS]
            table.add_row(files["1 %"].victim, name, str(files["1 %"].keys), *cells)
    return table


def _model_trials(report: Report) -> Table:
    """Tell of every attack by several keys when the alarm of the model as a whole sounded."""
    table = _table(
        "A quarter of a model's queries is an attack: queries in all until the model's alarm",
        *("victim", "attack", "keys", *BUDGETS, "of the keys named"),
        left=2,
    )
    grouped: dict[str, dict[str, list[ModelTrial]]] = defaultdict(lambda: defaultdict(list))
    for trial in report.model_trials:
        grouped[trial.source][trial.budget].append(trial)
    for source, trials in grouped.items():
        first = trials["1 %"][0]
        named = sum(trial.keys_named for trial in trials["1 %"])
        guilty = sum(trial.attack_keys_named for trial in trials["1 %"])
        cells = [_sounded(trials[budget]) for budget in BUDGETS]
        told = f"{guilty} of {named} the attack's" if named else "-"
        table.add_row(first.victim, first.attack or source, str(first.keys), *cells, told)
    quiet = [f"{count.alarms} in {count.weeks:.1f} weeks" for count in report.false_model_alarms]
    table.caption, table.caption_justify = f"Without an attack: {', '.join(quiet[:1])}.", "left"
    return table


def _sounded(trials: Sequence[ModelTrial]) -> Text:
    """Write in how many trials the alarm sounded, and the median number of queries."""
    queries = [trial.queries_to_alarm for trial in trials if trial.queries_to_alarm is not None]
    if not queries:
        return NEVER.copy()
    return Text(f"{len(queries)}/{len(trials)}, {sorted(queries)[len(queries) // 2]}")


def _grouped(files: Sequence[FileOutcome]) -> Iterator[tuple[str, dict[str, FileOutcome]]]:
    grouped: dict[str, dict[str, FileOutcome]] = defaultdict(dict)
    for file in sorted(files, key=lambda file: (file.victim, file.kind, file.source)):
        grouped[file.source][file.budget] = file
    yield from grouped.items()


def _found(file: FileOutcome, keys: Sequence[Outcome]) -> Text:
    """Write where a file's alarms stand: a query, or keys alarmed of all and their median."""
    if file.median_alarm_query is None:
        return NEVER.copy() if file.kind != "cover" else Text("none", "green")
    if file.keys == 1:
        query, attack_query = keys[0].first_alarm_query, keys[0].first_alarm_attack_query
        return Text(f"{query} ({attack_query})" if file.kind == "mix" else f"{query}")
    return Text(f"{file.keys_alarmed}/{file.keys}, {file.median_alarm_query:.0f}")


def _linked(file: FileOutcome) -> Text:
    """Write after how many queries in all a campaign was told of, and the most keys in one."""
    if file.first_linked_alarm_query_in_all is None:
        return NEVER.copy()
    return Text(f"{file.first_linked_alarm_query_in_all} ({file.keys_linked} keys)")


def _days(report: Report) -> Table:
    days = sorted({count.day for count in report.days})
    table = _table(
        "Benign keys first alarmed, by day from a cold start", "budget", *(f"day {day}" for day in days)
    )
    for budget in BUDGETS:
        table.add_row(budget, *(str(c.benign_keys_alarmed) for c in report.days if c.budget == budget))
    return table


def _live(report: Report) -> Table:
    table = _table("Attacks, among all customers", "victim", "attack", "key", "queries", *BUDGETS, left=2)
    rows: dict[tuple[str, str, int], list[Outcome]] = defaultdict(list)
    for outcome in report.traces:
        if outcome.kind != "benign":
            rows[outcome.victim, str(outcome.attack), outcome.number].append(outcome)
    for (victim, attack, number), outcomes in sorted(rows.items()):
        table.add_row(victim, attack, str(number), str(outcomes[0].queries), *map(_delay, outcomes))
    return table


def _duration(ms: int) -> str:
    """Write a duration in its largest fitting unit."""
    for unit, size in (("h", 3_600_000), ("min", 60_000), ("s", 1000)):
        if ms >= size:
            return f"{ms / size:.3g} {unit}"
    return f"{ms} ms"


def _delay(outcome: Outcome) -> Text:
    if outcome.first_alarm_query is None or outcome.delay_ms is None:
        return NEVER.copy()
    return Text(f"{outcome.first_alarm_query} in {_duration(outcome.delay_ms)}")
