"""The report of a run's folder or of a replay: what its files say, as one page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from streams.demo import DemoResult  # noqa: TC001 - msgspec reads the annotations at run time
from streams.errors import ModelwardenError
from streams.findings import read_run
from streams.fleet import read_states
from streams.html.page import Facts, counted, findings_page
from streams.html.scores import attacks_section, difference_section
from streams.html.words import utc
from streams.replay import Replayed
from streams.whatif import Difference

if TYPE_CHECKING:
    from pathlib import Path

    from streams.findings import Findings
    from streams.fleet import KeyStates


def folder_page(folder: Path) -> bytes:
    """Write the report of a run's folder, of the demonstration or of a replay.

    Raises
    ------
    ModelwardenError
        If it is no such folder, or a record in it cannot be read.
    """
    found, states = read_run(folder), read_states(folder)
    if (folder / "replay.json").exists():
        compared = folder / "difference.json"
        difference = _read(compared, Difference) if compared.exists() else None
        return replay_page(_read(folder / "replay.json", Replayed), found, states, difference)
    if (folder / "run.json").exists():
        result = _read(folder / "run.json", _RunRecord).result
        return findings_page(_demo_facts(result, found), found, states)
    return findings_page(_plain_facts(folder, found), found, states)


def replay_page(
    summary: Replayed, found: Findings, states: KeyStates, difference: Difference | None = None
) -> bytes:
    """Write the report of a replay, and of what it was compared with."""
    facts = replay_facts(summary, found)
    if difference is not None:
        facts = msgspec.structs.replace(facts, scoreboard=difference_section(difference))
    return findings_page(facts, found, states)


class _RunRecord(msgspec.Struct):
    """Of a run's record, what a report shows."""

    result: DemoResult


def _read(path: Path, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except msgspec.DecodeError as error:
        raise ModelwardenError(
            str(path), f"not a record of this version ({error})", "Read it with the version that wrote it"
        ) from error


def replay_facts(summary: Replayed, found: Findings) -> Facts:
    """Say what a replay was of and what came of it."""
    notes = [
        f"{count:,} events rejected: {reason.replace('_', ' ')}" for reason, count in summary.rejected.items()
    ]
    notes += [
        f"Model {model} had no reference and was learned from this traffic."
        for model in summary.models_without_reference
    ]
    notes += [f"{count:,} decisions withheld: {why}" for why, count in summary.withheld.items()]
    return Facts(
        title="Modelwarden replay",
        subtitle=f"{', '.join(summary.sources)}. {_period(found)}. "
        f"Policy {summary.policy_version} in mode {summary.mode}; a replay sends nothing.",
        warning=None
        if summary.complete
        else "Partial: the replay was interrupted, and everything here is of the part that was read.",
        tiles=(
            counted(summary.events, "event"),
            counted(summary.keys, "key"),
            (f"{len(summary.keys_alerted):,}", "keys with an alert"),
            (f"{summary.alerts['critical']:,}", "critical alerts"),
            counted(sum(summary.decisions.values()), "decision"),
        ),
        notes=tuple(notes),
    )


def _demo_facts(result: DemoResult, found: Findings) -> Facts:
    stopped = sum(attack.stopped_at_query is not None for attack in result.attacks)
    return Facts(
        title="Modelwarden demonstration",
        subtitle=f"Recorded attacks among recorded customers, the default policy enforced. {_period(found)}.",
        tiles=(
            counted(result.events, "event"),
            (f"{stopped:,} of {len(result.attacks):,}", "attacks stopped"),
            (f"{result.benign_watched:,}", "customers watched"),
            (f"{result.benign_noticed:,}", "customers noticed"),
            (f"{result.benign_harmed:,}", "customers harmed"),
            (f"{result.calls_refused:,}", "calls refused"),
        ),
        scoreboard=attacks_section(result.attacks),
    )


def _plain_facts(folder: Path, found: Findings) -> Facts:
    keys = {(alert.key, alert.model) for alert in found.alerts if alert.subject == "key"}
    return Facts(
        title="Modelwarden run",
        subtitle=f"{folder}. {_period(found)}.",
        tiles=(
            (f"{len(keys):,}", "keys with an alert"),
            counted(len(found.alerts), "alert"),
            counted(len(found.decisions), "decision"),
            counted(len(found.commands), "command"),
        ),
    )


def _period(found: Findings) -> str:
    if not found.alerts:
        return "No alert"
    return f"Alerts from {utc(found.alerts[0].time_ms)} to {utc(found.alerts[-1].time_ms)} UTC"
