"""`modelwarden replay`: history through detection and policy, without sending anything."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from streams.cli.output import examples, make_console, output_option, print_json, print_rows
from streams.cli.progress import EXIT_INTERRUPTED, show_progress, stop_on_interrupt
from streams.errors import ModelwardenError
from streams.places import STANDARD, TopicPlace, parse_place

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streams.cli.progress import Stop
    from streams.replay import AlertedKey, Replay, Replayed
    from streams.settings import Settings

SAMPLE = "sample"
SUMMARY_FILE = "replay.json"
ASK_TIMEOUT_S = 5.0
"""How long a broker may take to say how much there is to read."""
_COLUMNS = {  # query: of the key's own, at its first alert
    "level": "level",
    "key": "key",
    "model": "model",
    "first_query": "query",
    "families": "families",
    "action": "policy would",
}


@click.command(
    "replay",
    epilog=examples(
        "modelwarden replay events.jsonl.gz --references sample --alerts-to run/replay",
        "modelwarden replay kafka://127.0.0.1:9092/modelwarden.events@0..100000 -o json",
        "modelwarden simulate | modelwarden replay - --references sample",
        "modelwarden replay monday.jsonl tuesday.jsonl --policy stricter.yaml",
    ),
)
@click.argument("places", nargs=-1, required=True, metavar="FILE...|kafka://HOST:PORT/TOPIC[@FROM..TO]")
@click.option(
    "--settings",
    "settings_file",
    type=click.Path(path_type=Path),
    envvar="MODELWARDEN_SETTINGS",
    help="Settings file (YAML or TOML); the environment overrides it.",
)
@click.option(
    "--policy",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Decide by this policy.  [default: from the settings]",
)
@click.option(
    "--references",
    metavar="PATH",
    help="Compare keys with these references; `sample` for the shipped ones.  [default: from the settings]",
)
@click.option(
    "--alerts-to",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write alerts, decisions, commands and dead letters there as JSON lines.",
)
@output_option
def command(  # noqa: PLR0913 - one parameter per option
    *,
    places: tuple[str, ...],
    settings_file: Path | None,
    policy: Path | None,
    references: str | None,
    alerts_to: Path | None,
    output: str,
) -> None:
    """Run recorded events through the same detection and policy as a worker's; nothing is sent.

    Reads files of JSON lines (.gz too, - for standard input) or a topic, with a range of offsets if wanted.
    The same input gives the same output, to the byte. Ctrl-C ends with what was read so far.
    """
    parsed = [parse_place(text) for text in places]
    _refuse_old_files(alerts_to)
    # Imported here: the settings and detection bring numba, which --help and a wrong call need not wait for.
    from streams.settings import load_settings  # noqa: PLC0415

    settings = load_settings(settings_file, os.environ)
    given = {} if policy is None else {"policy_file": policy}
    if references not in {None, SAMPLE}:
        given["references_path"] = Path(str(references))
    settings = msgspec.structs.replace(settings, **given)
    with stop_on_interrupt() as stop:
        replay, summary = _run(parsed, places, settings, stop, use_sample=references == SAMPLE)
    if alerts_to is not None:
        _write(replay, summary, alerts_to)
    if output == "table":
        _show(summary, alerts_to)
    elif output == "json":
        print_json(summary)
    else:
        print_rows(summary.keys_alerted, {}, output)
    if not summary.complete:
        if output != "table":
            click.echo("Interrupted: this is a partial result.", err=True)
        raise SystemExit(EXIT_INTERRUPTED)


def _refuse_old_files(folder: Path | None) -> None:
    if folder is not None and folder.is_dir() and any(folder.iterdir()):
        raise ModelwardenError(
            str(folder), "the folder is not empty, and records are never mixed", "Give another folder"
        )


def _run(
    parsed: Sequence[Path | TopicPlace],
    written: tuple[str, ...],
    settings: Settings,
    stop: Stop,
    *,
    use_sample: bool,
) -> tuple[Replay, Replayed]:
    from sinks.policyfile import load_policy  # noqa: PLC0415 - see command
    from streams.pipeline import build_pipeline, load_references  # noqa: PLC0415
    from streams.replay import Replay, summarise  # noqa: PLC0415
    from streams.samples import load_references as load_shipped  # noqa: PLC0415

    paths = [place for place in parsed if isinstance(place, Path)]
    topics = [place for place in parsed if isinstance(place, TopicPlace)]
    if len(topics) > 1 or (topics and paths):
        raise click.UsageError("Give files, or one topic: their events have no order among each other.")
    path = settings.references_path
    references = load_shipped() if use_sample else {} if path is None else dict(load_references(path))
    policy = load_policy(settings.policy_file, settings.policy_mode)
    total, unit = _size(paths), "bytes"
    if topics:
        total, unit = _records(topics[0]), "events"
    with show_progress("Replaying", total, unit) as tell:
        replay = Replay(
            lambda: build_pipeline(settings, live=False, references=references),
            stopped=stop.is_set,
            tell=tell,
            waiting=stop.waiting,
        )
        if topics:
            _read_topic(replay, topics[0])
        else:
            replay.files(paths, settings.max_message_bytes)
    summary = summarise(
        replay,
        sources=written,
        models_without_reference=tuple(sorted(replay.models - set(references))),
        mode=policy.mode,
        policy_version=policy.policy_version,
    )
    return replay, summary


def _size(paths: Sequence[Path]) -> int:
    """Return the bytes to read; 0 if standard input is among them."""
    if any(str(path) == STANDARD for path in paths):
        return 0
    return sum(path.stat().st_size for path in paths if path.is_file())


def _records(place: TopicPlace) -> int:
    from streams.bus.kafka import KafkaBus  # noqa: PLC0415 - needed only for topics
    from streams.replay import topic_ends  # noqa: PLC0415 - see command

    bus = KafkaBus(place.bootstrap, timeout_s=ASK_TIMEOUT_S)
    try:
        return sum(max(end - place.first, 0) for end in topic_ends(bus, place).values())
    finally:
        bus.close()


def _read_topic(replay: Replay, place: TopicPlace) -> None:
    from streams.bus.kafka import KafkaBus  # noqa: PLC0415 - needed only for topics

    bus = KafkaBus(place.bootstrap)
    try:
        replay.topic(bus, place)
    finally:
        bus.close()


def _write(replay: Replay, summary: Replayed, folder: Path) -> None:
    from sinks.files import FileSink  # noqa: PLC0415 - see command

    with FileSink(folder) as sink:
        replay.collected.write(sink)
    text = msgspec.json.format(msgspec.json.encode(summary, order="deterministic"), indent=1)
    (folder / SUMMARY_FILE).write_bytes(text + b"\n")


def _show(summary: Replayed, folder: Path | None) -> None:
    console = make_console()
    if not summary.complete:
        console.print("[bold red]PARTIAL[/]: interrupted; everything below is of what was read until then.")
    rejected = f"{sum(summary.rejected.values()):,} rejected"
    why = f" ({_counts(summary.rejected)})" if summary.rejected else ""
    console.print(f"[bold]Events[/]     {summary.events:,} of {summary.keys:,} keys, {rejected}{why}")
    for model in summary.models_without_reference:
        console.print(f"           model {model} has no reference: learned from this traffic", style="yellow")
    alerts = _counts({level: count for level, count in summary.alerts.items() if count})
    console.print(f"[bold]Alerts[/]     {alerts or 'none'}, on {len(summary.keys_alerted):,} keys")
    console.print(
        f"[bold]Decisions[/]  {_counts(summary.decisions) or 'none'}, "
        f"by policy {summary.policy_version} in mode {summary.mode}"
    )
    commands = _counts(summary.commands) or "none"
    console.print(f"[bold]Commands[/]   {commands}; a replay sends nothing")
    for reason, count in summary.withheld.items():
        console.print(f"           {count:,} withheld: {reason}", style="dim")
    if summary.keys_alerted:
        console.print()
        print_rows(map(_row, summary.keys_alerted), _COLUMNS, "table", right=("first_query",))
    if folder is not None:
        console.print(f"\nWritten to {folder}", style="dim")
        if summary.keys_alerted:
            console.print(
                f"Next: modelwarden key explain {summary.keys_alerted[0].key} --run {folder}", style="cyan"
            )


def _row(found: AlertedKey) -> dict[str, object]:
    return {
        **msgspec.structs.asdict(found),
        "families": ", ".join(found.families).replace("_", " "),
        "action": found.actions[-1] if found.actions else None,
    }


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
