"""What a person sees of one key: a line an alert, or one alert explained."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from detectors.alert import is_budget_alert
from detectors.budgetalert import tell
from streams.demoview import LEVEL_MARK, LEVEL_STYLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console, RenderableType

    from detectors.alert import Alert, Evidence, Feature
    from detectors.keysummary import KeySummary
    from sinks.records import Command, Decision
    from streams.keystory import KeyStory

BAR_WIDTH = 24
_INDENT = (0, 0, 0, 2)


def utc(time_ms: int) -> str:
    """Write a time to the second, UTC."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def show_story(story: KeyStory, console: Console) -> None:
    """Print a line for each alert and command of a key."""
    console.print(_title(story))
    if not story.alerts:
        console.print(_nothing(story))
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("TIME (UTC)", "LEVEL", "MODEL"):
        table.add_column(heading, no_wrap=True)
    table.add_column("QUERY", justify="right")
    table.add_column("HONEST KEYS", justify="right", no_wrap=True)
    table.add_column("FAMILIES")
    table.add_column("DECISION")
    for alert in story.alerts:
        table.add_row(
            utc(alert.time_ms),
            _level(alert),
            alert.model,
            f"{alert.query_count:,}",
            share(alert.key_p_value),
            _words(alert.families),
            _decision(story.decision_on(alert)),
        )
    console.print(table)
    for command in story.commands:
        console.print(_command(command))
    console.print(f"\nNext: modelwarden key explain {story.key} {story.place_option}", style="cyan")


def show_explained(story: KeyStory, console: Console) -> None:
    """Print the weightiest alert of a key with all that speaks for it, and what followed."""
    alert = story.highest
    if alert is None:
        console.print(_title(story))
        console.print(_nothing(story))
        return
    parts: list[RenderableType] = [
        Text(alert.sentence),
        *_held(alert),
        _heading("What was seen", "observed, beside honest keys of the same age"),
        Padding(_features(alert.features), _INDENT),
        _heading("Who agrees", "share of honest keys expected to look this odd in their lifetime"),
        Padding(_evidence(alert), _INDENT),
        _heading("What was decided"),
        *(Padding(line, _INDENT) for line in _decisions(story)),
        _heading("What would have kept it from firing"),
        Padding(Text(alert.would_not_have_fired), _INDENT),
        _heading("Where to look"),
        Padding(_origin(alert, story.decision_on(alert)), _INDENT),
    ]
    title = Text.assemble(_level(alert), "  ", (story.key, "bold cyan"), f"  on {alert.model} ")
    console.print(
        Panel(
            Group(*parts),
            title=title,
            title_align="left",
            border_style=LEVEL_STYLE[alert.level],
            box=box.ROUNDED,
            padding=(1, 2),
        )
    )


def _held(alert: Alert) -> list[RenderableType]:
    """Say what the key holds of the model, unless that is what the alert says already."""
    if alert.extraction is None or is_budget_alert(alert):
        return []
    told = Text(tell(alert.extraction, alert.model))
    return [_heading("What it holds of the model"), Padding(told, _INDENT)]


def share(p_value: float) -> str:
    """Write a share of honest keys as a person says it: `1 in 3,000`."""
    if p_value > 0.5:
        return "most"
    count = 1 / max(p_value, 1e-300)
    if count >= 1e9:
        return "< 1 in 10^9"
    digits = 10 ** max(len(str(int(count))) - 2, 0)
    return f"1 in {int(count) // digits * digits:,}"


def show_nearest(summaries: Sequence[KeySummary], console: Console) -> None:
    """Print what comes nearest to a notice for a key, a table a model."""
    for summary in summaries:
        odds = share(summary.key_p_value)
        console.print(
            f"{summary.key} on {summary.model}, {summary.query_count:,} queries: "
            f"{summary.level or 'no'} alert; {odds} honest keys ever look this odd."
        )
        if not summary.nearest:
            console.print("Nothing to compare with yet: the model is still learned, or the key is too new.")
            continue
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        table.add_column("WHAT WOULD HAVE TO BE SEEN: ITS")
        for heading in ("SEEN", "HONEST", "NEEDED", "OF THE WAY"):
            table.add_column(heading, justify="right", no_wrap=True)
        for one in summary.nearest:
            numbers = (f"{value:.2f}" for value in (one.observed, one.expected, one.needed))
            table.add_row(f"{one.sentence} ({one.name})", *numbers, f"{max(one.share, 0):.0%}")
        console.print(table)


def _title(story: KeyStory) -> Text:
    return Text.assemble(("Key ", "bold"), (story.key, "bold cyan"), (f"  from {story.source}", "dim"))


def _nothing(story: KeyStory) -> str:
    return (
        "No alert about this key. It may be honest, new, or unknown: "
        f"{story.source} records only keys that something was found about."
    )


def _heading(text: str, note: str = "") -> Text:
    return Text.assemble("\n", (text, "bold"), (f"  {note}" if note else "", "dim"))


def _level(alert: Alert) -> Text:
    return Text(f"{LEVEL_MARK[alert.level]} {alert.level}", LEVEL_STYLE[alert.level])


def _words(names: tuple[str, ...]) -> str:
    return ", ".join(names).replace("_", " ")


def _features(features: tuple[Feature, ...]) -> Table:
    """Draw each number on a scale of its own: what honest keys reach, and where this key stands."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("feature", no_wrap=True)
    table.add_column("observed", justify="right")
    table.add_column("typical", justify="right")
    table.add_column("99 % below", justify="right")
    table.add_column("", no_wrap=True)
    table.add_column("unit")
    for feature in features:
        is_beyond = feature.observed > feature.benign_high
        table.add_row(
            feature.name,
            Text(_number(feature.observed), "bold red" if is_beyond else ""),
            _number(feature.expected),
            _number(feature.benign_high),
            _bar(feature),
            Text(feature.unit, "dim"),
        )
    return table


def _bar(feature: Feature) -> Text:
    """Fill up to the observed number, solid and red beyond the 99th percentile of honest keys."""
    low = min(0.0, feature.observed, feature.expected)
    span = max(feature.observed, feature.benign_high, feature.expected) - low or 1.0
    seen = round((feature.observed - low) / span * BAR_WIDTH)
    usual = round((feature.benign_high - low) / span * BAR_WIDTH)
    return Text.assemble(
        ("▒" * min(seen, usual), "green"),
        ("█" * max(seen - usual, 0), "red"),
        ("░" * (BAR_WIDTH - seen), "dim"),
    )


def _number(value: float) -> str:
    return f"{value:.3g}"


def _evidence(alert: Alert) -> Table:
    table = Table.grid(padding=(0, 2))
    for item in alert.evidence:
        agrees = item.family in alert.families
        table.add_row(
            Text("✔" if agrees else "·", "green" if agrees else "dim"),
            Text(item.family.replace("_", " "), "" if agrees else "dim"),
            Text(share(item.key_p_value), "" if agrees else "dim"),
            Text(_certainty(item), "dim"),
        )
    table.add_row("", Text("together", "bold"), Text(share(alert.key_p_value), "bold"), "")
    return table


def _certainty(item: Evidence) -> str:
    notes = ["read in a fitted tail, beyond the honest keys known"] if item.extrapolated else []
    if item.e_value_log10 is not None and item.e_value_log10 > 0:
        notes.append(f"e-value 10^{item.e_value_log10:.1f}")
    return "; ".join(notes)


def _decisions(story: KeyStory) -> list[Text]:
    if not story.decisions:
        return [Text("No rule of the policy matched.", "dim")]
    alerts = {alert.alert_id: alert for alert in story.alerts}
    lines = []
    for decision in story.decisions:
        alert = alerts.get(decision.alert_id)
        cause = f"query {alert.query_count:,}, {alert.level}" if alert else "feedback"
        rule = (f"  (rule {decision.rule})", "dim")
        lines.append(
            Text.assemble((f"{utc(decision.time_ms)}  ", "dim"), f"{cause}: ", _decision(decision), rule)
        )
    return lines + [_command(command) for command in story.commands]


def _decision(decision: Decision | None) -> Text:
    if decision is None:
        return Text("-", "dim")
    if decision.withheld is None:
        return Text.assemble((decision.action, "bold red"), " sent")
    return Text.assemble((decision.action, "bold"), (f", withheld: {decision.withheld}", "yellow"))


def _command(command: Command) -> Text:
    signed = f"signed by {command.signing_key_id}" if command.signature else "not signed"
    return Text.assemble(
        (f"{utc(command.issued_ms)}  ", "dim"),
        (f"✔ command {command.action}", "bold green"),
        f" until {utc(command.expires_ms)}, {signed}",
    )


def _origin(alert: Alert, decision: Decision | None) -> Table:
    table = Table.grid(padding=(0, 2))
    place = f"{alert.topic}, partition {alert.partition}"
    policy = f", policy {decision.policy_version}" if decision else ""
    rows = {
        "alert": f"{alert.alert_id}, {utc(alert.time_ms)} UTC",
        "events": f"{place}, offsets {alert.first_offset:,} to {alert.offset:,} (this key's are among them)",
        "MITRE ATLAS": ", ".join(alert.techniques),
        "made by": f"version {alert.code_version}, reference {alert.reference_version}{policy}",
    }
    for name, value in rows.items():
        table.add_row(Text(name, "dim"), value)
    return table
