"""A whole report as one page: what happened, when, to which keys and why."""

from __future__ import annotations

from collections import defaultdict
from importlib.resources import files
from typing import TYPE_CHECKING

import msgspec

from detectors.alert import LEVELS
from streams.fleet import WATCHED_KEYS, KeyStates
from streams.html.campaign import campaign_card
from streams.html.element import Markup, join, tag
from streams.html.keycard import KeyFindings, key_card
from streams.html.words import COMMAND_MARK, LEVEL_MARK, names, plural, short_time

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streams.findings import Findings

CAMPAIGNS_DRAWN = 20
OPEN_KEYS = 1
"""Cards that stand open at the beginning."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the top of a report says."""

    title: str
    subtitle: str
    tiles: tuple[tuple[str, str], ...]
    """Number and what it counts."""
    notes: tuple[str, ...] = ()
    warning: str | None = None
    """Something that a reader must know first, such as that the result is partial."""
    scoreboard: Markup | None = None


def findings_page(facts: Facts, found: Findings, states: KeyStates) -> bytes:
    """Write the report of a run or a replay."""
    keys = keys_found(found, states)
    campaigns = [alert for alert in found.alerts if alert.subject == "campaign"]
    levels = {key.key: key.weightiest.level for key in reversed(keys)}
    drawn = keys[:WATCHED_KEYS]
    parts = [_when(drawn) if drawn else None, facts.scoreboard]
    if campaigns:
        cards = [campaign_card(alert, levels) for alert in campaigns[:CAMPAIGNS_DRAWN]]
        intro = "Several keys that are one attacker. A campaign alert names its keys and decides nothing."
        parts.append(section("Campaigns", intro, join(cards)))
    if drawn:
        more = f" The first {len(drawn)} of {len(keys):,}, highest level first." if keys[len(drawn) :] else ""
        cards = [key_card(key, is_open=index < OPEN_KEYS) for index, key in enumerate(drawn)]
        intro = f"Every key with an alert, and why. Open a line to see its evidence.{more}"
        parts.append(section("Keys", intro, join(cards)))
    else:
        parts.append(section("Keys", "No alert: everything looked like ordinary use.", Markup()))
    return page(facts, parts)


def keys_found(found: Findings, states: KeyStates) -> list[KeyFindings]:
    """Gather what is known of each alerted key, highest level first, then in order of time."""
    alerts = defaultdict(list)
    for alert in found.alerts:
        if alert.subject == "key":
            alerts[alert.key, alert.model].append(alert)
    history = {(one.key, one.model): one.points for one in states.history}
    fleet = {one.model: one for one in states.fleet}
    decisions, commands = (
        _by_place(records) for records in (found.decisions, found.commands)
    )  # None: every model of the key
    keys = [
        KeyFindings(
            key,
            model,
            tuple(listed),
            tuple(decisions[key, model] + decisions[key, None]),
            tuple(commands[key, model] + commands[key, None]),
            history.get((key, model), ()),
            fleet.get(model),
        )
        for (key, model), listed in alerts.items()
    ]
    return sorted(keys, key=lambda key: (-LEVELS.index(key.weightiest.level), key.alerts[0].time_ms, key.key))


def _by_place(records: Sequence[msgspec.Struct]) -> Mapping[tuple[str, str | None], list]:  # type: ignore[type-arg]  # decisions or commands
    places: dict[tuple[str, str | None], list[msgspec.Struct]] = defaultdict(list)
    for record in records:
        places[record.key, record.model].append(record)  # type: ignore[attr-defined]  # both kinds have them
    return places


def _when(keys: Sequence[KeyFindings]) -> Markup:
    """Draw a lane for each key, from its first event to its last, with alerts and commands on it."""
    times = [time for key in keys for time in _span(key)]
    start, end = min(times), max(times)
    span = max(end - start, 1)

    def left(time_ms: int) -> str:
        return f"left:{100 * (time_ms - start) / span:.2f}%"

    ticks = [tag("span", short_time(start + span * step // 2)) for step in range(3)]
    lanes = [tag("div", tag("span"), tag("p", ticks, class_="ticks"), class_="lane")]
    for key in keys:
        first, last = _span(key)
        bar = tag("s", style=f"{left(first)};width:{100 * (last - first) / span:.2f}%")
        marks = [
            tag("i", LEVEL_MARK[a.level], style=left(a.time_ms), class_=a.level,
                title=f"{a.level}, {short_time(a.time_ms)}, query {a.query_count:,}")
            for a in key.alerts
        ]  # fmt: skip
        marks += [
            tag("i", COMMAND_MARK, style=left(c.issued_ms), title=f"{c.action}, {short_time(c.issued_ms)}")
            for c in key.commands[-1:]
        ]
        worst = key.weightiest
        label = tag(
            "a",
            tag("span", LEVEL_MARK[worst.level], class_=worst.level),
            f" {key.key[:11]} ",
            tag("span", names(worst.families), class_="muted"),
            href=f"#{key.key}-{key.model}",
            class_="label small",
            title=f"{key.key} on {key.model}",
        )
        lanes.append(tag("div", label, tag("div", bar, marks, class_="track"), class_="lane"))
    legend = [
        tag("span", f"{LEVEL_MARK[level]} {level}", class_=level) for level in LEVELS if _has(keys, level)
    ]
    legend.append(tag("span", f"{COMMAND_MARK} newest command"))
    intro = join(
        "Each line is a key, from its first event to its last. ", *(join(item, "  ") for item in legend)
    )
    return section("When", intro, tag("div", lanes, class_="card"))


def _has(keys: Sequence[KeyFindings], level: str) -> bool:
    return any(alert.level == level for key in keys for alert in key.alerts)


def _span(key: KeyFindings) -> tuple[int, int]:
    times = [alert.time_ms for alert in key.alerts] + [point.time_ms for point in key.points]
    return min(times), max(times)


def section(title: str, intro: str, body: Markup) -> Markup:
    """Return a part of a page with its heading."""
    return tag("section", tag("h2", title), tag("p", intro, class_="muted"), body)


def page(facts: Facts, parts: Sequence[Markup | None]) -> bytes:
    """Write a page: its head, its facts, and its parts."""
    tiles = [tag("div", tag("b", number), tag("span", what), class_="tile") for number, what in facts.tiles]
    body = tag(
        "main",
        tag("h1", facts.title),
        tag("p", facts.subtitle, class_="muted"),
        tag("p", facts.warning, class_="banner", role="alert") if facts.warning else None,
        tag("div", tiles, class_="tiles"),
        tag("ul", [tag("li", note) for note in facts.notes], class_="small muted notes")
        if facts.notes
        else None,
        *parts,
        tag("footer", tag("p", _FOOTER)),
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width,initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("link", rel="icon", href="data:,"),
        tag("title", facts.title),
        tag("style", Markup(_style())),
    )
    return b"<!doctype html>\n" + tag("html", head, tag("body", body), lang="en").encode() + b"\n"


def _style() -> str:
    return (files("streams.html") / "style.css").read_text(encoding="utf-8")


_FOOTER = (
    "Made by Modelwarden. Keys appear by reference only (an HMAC); neither raw keys nor raw inputs are in "
    "this page. An alert is a finding and decides nothing; what follows is the policy's. The page loads "
    "nothing and runs no script."
)


def counted(count: int, noun: str) -> tuple[str, str]:
    """Return a tile for a count."""
    return f"{count:,}", plural(count, noun).split(" ", 1)[1]
