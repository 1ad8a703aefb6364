"""The page of techniques: what each attack does, what sees it, how late, and how it can hide.

Made from an evaluation by `modelwarden evaluate TRACES --techniques FILE`; measured figures come from the
report alone, what is known of a technique from the table here.
"""

from __future__ import annotations

from fnmatch import fnmatch
from math import log
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from detectors.alert import FAMILY_TECHNIQUES
from streams.report import BUDGETS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from streams.report import FileOutcome, Outcome, Report


class Technique(NamedTuple):
    """What is known of an attack technique."""

    name: str
    attacks: tuple[str, ...]
    """Names of recordings, or patterns."""
    does: str
    evasion: str


TECHNIQUES: tuple[Technique, ...] = (
    Technique(
        "Random probing",
        ("uniform", "gaussian"),
        "Asks noise of the input's shape.",
        "noise within the data's own covariance; half ordinary traffic doubles the delay.",
    ),
    Technique(
        "Knockoff Nets",
        ("knockoff_rand_kmnist", "knockoff_rand_fashion", "knockoff_adap_notmnist"),
        "Asks natural inputs of another domain.",
        "a pool close to the model's own domain; less than half of the traffic, as of a customer's junk.",
    ),
    Technique(
        "Knockoff Nets, own domain",
        ("knockoff_rand_id",),
        "Asks inputs of the model's own domain.",
        "none is needed: nothing in the inputs differs from use. Only the extraction budget tells.",
    ),
    Technique(
        "Copycat CNN",
        ("copycat*",),
        "Asks unrelated natural images, takes labels.",
        "as Knockoff Nets.",
    ),
    Technique(
        "Jacobian augmentation",
        ("jbda", "jbda_tr"),
        "Asks small steps from its seeds, round by round.",
        "shuffled rounds with steps as long as between ordinary inputs; a tenth of the traffic or less.",
    ),
    Technique(
        "T-RND",
        ("trnd*",),
        "Asks targeted adversarial steps from its seeds.",
        "as Jacobian augmentation.",
    ),
    Technique(
        "Line search",
        ("tramer_ls", "tramer_nat", "tramer_online"),
        "Bisects between inputs of different answers.",
        "noise on every step; ends sent more than 256 queries before, or through other keys. Its seeds are "
        "ordinary: 600 in the recording `tramer_nat` of the model `adult`, 100 in that of `mnist`.",
    ),
    Technique(
        "Finite differences",
        ("grid",),
        "Moves each coordinate of an input by itself.",
        "steps of random length; more than a query in two of other traffic.",
    ),
    Technique(
        "Decision-based search",
        ("square", "hsja", "hop_skip_jump"),
        "Walks along the boundary by proposals.",
        "proposals as far apart as ordinary inputs; exact repeats are no evidence.",
    ),
)

UNDETECTABLE = """\
* Copying with inputs drawn from the model's own distribution at an ordinary pace. For some classes of models
  this is proved: queries of covert learning cannot be told from use by anything efficient (Karchmer, SaTML
  2023). No alarm is claimed; the extraction budget says how much a key holds.
* An attack diluted below what the table of the floor allows. Odd inputs in a tenth of the traffic are what
  some honest customers send (blank, inverted or foreign inputs in a fifth of it).
* An attack spread over keys that share nothing: no tenant, no network, no inputs, uneven shares.
* Copies of inputs that were sent more than 256 queries before, and the order of a walk that is shuffled.
"""

_INTRODUCTION = """\
# Techniques

Written by `modelwarden evaluate TRACES --techniques deploy/docs/techniques.md`; do not edit.

What each technique of model extraction does, what sees it, after how many queries, and how it can hide.
Measured on recordings of published attack code, at budgets of 1 %, 0.1 % and 0.01 % of honest keys alarmed in
their lifetime. Of honest keys that set no threshold were alarmed: {honest}.
"""

_FLOOR = """\
## The floor

The least expected queries of any test at level {alpha:g} against a key, if a score separates attack from
benign queries by so many standard deviations, by the share of attack queries. A figure below the floor would
be a fault of the measurement.
"""

_SHARES = (1.0, 0.5, 0.25, 0.1, 0.05)
_SEPARATIONS = (0.5, 1.0, 2.0, 3.0)
FLOOR_ALPHA = 1e-3


def floor_queries(separation: float, share: float, alpha: float = FLOOR_ALPHA) -> int:
    """Return the least expected queries of any sequential test: ln(1/alpha) / KL(mixture || benign).

    Scores are N(0, 1) for benign queries and N(separation, 1) for the share of attack queries (Wald, 1945;
    Lorden, Annals of Mathematical Statistics 1971).
    """
    grid = np.linspace(-12, 12 + separation, 20_001)
    benign = np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi)
    ratio = 1 - share + share * np.exp(separation * grid - separation**2 / 2)
    divergence = np.trapezoid(benign * ratio * np.log(ratio), grid)
    return int(np.ceil(log(1 / alpha) / divergence))


def render(report: Report) -> str:
    """Write the page, Markdown, from a report of `streams.evaluate.evaluate`."""
    return "\n".join(
        [
            _INTRODUCTION.format(honest=_honest(report)),
            *_sections(report),
            "## Diluted and split",
            "",
            *_mixes(report),
            "",
            *floor_lines(),
            "",
            "## What cannot be detected",
            "",
            UNDETECTABLE,
        ]
    )


def known_lines(technique: Technique) -> list[str]:
    """Return what the page says of a technique whatever was measured."""
    return [f"### {technique.name}", "", technique.does, "", f"Known evasions: {technique.evasion}", ""]


def floor_lines() -> list[str]:
    """Return the table of the information-theoretic floor."""
    rows = [
        f"| {separation:g} | " + " | ".join(f"{floor_queries(separation, s):,}" for s in _SHARES) + " |"
        for separation in _SEPARATIONS
    ]
    return [
        _FLOOR.format(alpha=FLOOR_ALPHA),
        "| separation | " + " | ".join(f"{share:.0%}" for share in _SHARES) + " |",
        "|---|" + "---|" * len(_SHARES),
        *rows,
    ]


def _honest(report: Report) -> str:
    whole = [share for share in report.benign if share.persona is None]
    parts = []
    for budget in report.budgets:
        mine = [share for share in whole if share.budget == budget]
        alarmed, keys = sum(s.alarmed for s in mine), sum(s.keys for s in mine)
        parts.append(f"{alarmed} of {keys} at {budget}")
    return ", ".join(parts)


def _sections(report: Report) -> list[str]:
    lines = ["## Undiluted", ""]
    attacks = [outcome for outcome in report.traces if outcome.kind == "attack"]
    for technique in TECHNIQUES:
        mine = [o for o in attacks if any(fnmatch(str(o.attack), pattern) for pattern in technique.attacks)]
        lines += known_lines(technique)
        if mine:
            lines += [*_table(mine), ""]
        families = {family for outcome in mine for family in outcome.families_ever}
        ids = sorted({i for family in families for i in FAMILY_TECHNIQUES[family]} | {"AML.T0024.002"})
        lines += [f"MITRE ATLAS: {', '.join(ids)}.", ""]
    return lines


def _table(outcomes: Sequence[Outcome]) -> list[str]:
    """Return a table of queries to the first alarm, a row a recording."""
    lines = [
        "| model | recording | " + " | ".join(BUDGETS) + " | seen by |",
        "|---|---|" + "---|" * len(BUDGETS) + "---|",
    ]
    for source in sorted({outcome.source for outcome in outcomes}):
        rows = {outcome.budget: outcome for outcome in outcomes if outcome.source == source}
        first = rows[next(iter(BUDGETS))]
        cells = [_query(rows[budget].first_alarm_query) for budget in BUDGETS]
        lines.append(
            f"| {first.victim} | {first.attack} | {' | '.join(cells)} | {_words(first.families_ever)} |"
        )
    return lines


def _mixes(report: Report) -> list[str]:
    lines = [
        "Attack queries until the first alarm; for splits, queries in all until keys were linked.",
        "",
        "| model | recording | " + " | ".join(BUDGETS) + " |",
        "|---|---|" + "---|" * len(BUDGETS),
    ]
    for source in sorted({o.source for o in report.traces if o.kind == "mix"}):
        rows = {o.budget: o for o in report.traces if o.source == source}
        cells = [_query(rows[budget].first_alarm_attack_query) for budget in BUDGETS]
        first = rows[next(iter(BUDGETS))]
        lines.append(f"| {first.victim} | {first.attack} | {' | '.join(cells)} |")
    return lines + [_split(files) for files in _splits(report.files)]


def _splits(files: Sequence[FileOutcome]) -> Iterable[dict[str, FileOutcome]]:
    for source in sorted({file.source for file in files if file.kind == "split"}):
        yield {file.budget: file for file in files if file.source == source}


def _split(rows: dict[str, FileOutcome]) -> str:
    first = rows[next(iter(BUDGETS))]
    cells = [_query(rows[budget].first_linked_alarm_query_in_all) for budget in BUDGETS]
    return f"| {first.victim} | {first.attack}, {first.keys} keys | {' | '.join(cells)} |"


def _query(query: int | None) -> str:
    return "never" if query is None else f"{query:,}"


def _words(families: Sequence[str]) -> str:
    return ", ".join(family.replace("_", " ") for family in families) or "nothing"
