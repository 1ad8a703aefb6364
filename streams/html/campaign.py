"""Campaigns: keys that are one attacker, drawn as a graph."""

from __future__ import annotations

from math import cos, pi, sin
from typing import TYPE_CHECKING

from streams.html.element import Markup, tag
from streams.html.words import LEVEL_MARK, odds, plural, short_key, utc

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from detectors.alert import Alert

DRAWN_KEYS = 120
LABELLED_KEYS = 14
_WIDTH, _HEIGHT = 360, 300
_RING = 26
"""Keys on the innermost ring."""


def campaign_card(alert: Alert, levels: Mapping[str, str]) -> Markup:
    """Draw one campaign.

    Parameters
    ----------
    alert : Alert
    levels : mapping of str to str
        The highest level of each key that was alerted by itself.
    """
    alone = sum(member in levels for member in alert.members)
    facts = {
        "keys": f"{len(alert.members):,}, of which {alone:,} were also found by themselves",
        "model": alert.model,
        "chance": f"{odds(alert.key_p_value)} honest weeks of this model",
        "found": f"{utc(alert.time_ms)} UTC, offset {alert.offset:,}",
        "MITRE ATLAS": ", ".join(alert.techniques),
    }
    listed = tag(
        "details", tag("summary", "All keys"), tag("p", ", ".join(alert.members), class_="mono small")
    )
    words = [
        tag("p", tag("span", f"{LEVEL_MARK[alert.level]} {alert.level}", class_=f"{alert.level} strong")),
        tag("p", alert.sentence),
        tag("dl", [Markup(tag("dt", name) + tag("dd", value)) for name, value in facts.items()]),
        tag("p", alert.would_not_have_fired, class_="muted small"),
        listed,
    ]
    return tag(
        "div", tag("div", tag("div", words), tag("div", _graph(alert, levels)), class_="grid"), class_="card"
    )


def _graph(alert: Alert, levels: Mapping[str, str]) -> Markup:
    members = alert.members[:DRAWN_KEYS]
    places = _places(len(members))
    centre = _WIDTH / 2, _HEIGHT / 2
    edges = [tag("line", x1=centre[0], y1=centre[1], x2=x, y2=y, class_="edge") for x, y in places]
    nodes = [_node(key, place, levels, len(members)) for key, place in zip(members, places, strict=True)]
    hub = tag("circle", tag("title", plural(len(alert.members), "key")), cx=centre[0], cy=centre[1], r=9,
              class_="hub")  # fmt: skip
    return tag("svg", edges, nodes, hub, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img",
               aria_label=f"A campaign of {len(alert.members)} keys")  # fmt: skip


def _node(key: str, place: tuple[float, float], levels: Mapping[str, str], count: int) -> Markup:
    x, y = place
    level = levels.get(key, "")
    dot = tag("circle", tag("title", key), cx=x, cy=y, r=7 if count <= _RING else 5, class_=f"node {level}")
    if count > LABELLED_KEYS:
        return dot
    right = x >= _WIDTH / 2
    label = tag("text", short_key(key), x=x + (11 if right else -11), y=y + 4,
                text_anchor="start" if right else "end")  # fmt: skip
    return Markup(dot + label)


def _places(count: int) -> Sequence[tuple[float, float]]:
    """Put so many keys on rings around the middle; with labels on one narrow ring, room left and right."""
    rings = max(1, -(-count // _RING)) if count > LABELLED_KEYS else 1
    places = []
    for index in range(count):
        ring = index * rings // count
        first, last = -(-ring * count // rings), -(-(ring + 1) * count // rings)
        angle = 2 * pi * (index - first + 0.5) / (last - first) - pi / 2
        wide = 80 if count <= LABELLED_KEYS else 135
        reach = 1.0 if rings == 1 else 0.45 + 0.55 * ring / (rings - 1)
        places.append(
            (
                round(_WIDTH / 2 + wide * reach * cos(angle), 1),
                round(_HEIGHT / 2 + 130 * reach * sin(angle), 1),
            )
        )
    return places
