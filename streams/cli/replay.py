"""`modelwarden replay`: history through detection and policy, without sending anything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from streams.cli.output import examples, output_option, print_json, print_rows
from streams.cli.progress import EXIT_INTERRUPTED, stop_on_interrupt
from streams.errors import ModelwardenError

if TYPE_CHECKING:
    from collections.abc import Callable

    from streams.cli.progress import Stop
    from streams.cli.replayjob import ReplayJob
    from streams.replay import Replay, Replayed

SUMMARY_FILE = "replay.json"
DIFFERENCE_FILE = "difference.json"


def _path(*names: str, dir_okay: bool = True, **options: Any) -> Callable[..., Any]:
    return click.option(*names, type=click.Path(dir_okay=dir_okay, path_type=Path), **options)


@click.command(
    "replay",
    epilog=examples(
        "modelwarden replay events.jsonl.gz --references sample --html report.html",
        "modelwarden replay events.jsonl.gz --policy stricter.yaml --against policy.yaml",
        "modelwarden replay events.jsonl.gz --references new/ --against run/with-old-references",
        "modelwarden replay kafka://127.0.0.1:9092/modelwarden.events@0..100000 -o json",
        "modelwarden replay kafka://127.0.0.1:9092/modelwarden.events@2026-01-05T08:00..2026-01-06",
        "modelwarden replay events.jsonl.gz --alert 6c8660bfd0e8 --run run/replay",
        "modelwarden simulate | modelwarden replay - --references sample",
    ),
)
@click.argument("places", nargs=-1, required=True, metavar="FILE...|kafka://HOST:PORT/TOPIC[@FROM..TO]")
@_path(
    "--settings",
    "settings_file",
    envvar="MODELWARDEN_SETTINGS",
    help="Settings file (YAML or TOML); the environment overrides it.",
)
@_path(
    "--policy",
    metavar="POLICY",
    help="Decide by this policy, a file or folder.  [default: from the settings]",
)
@click.option(
    "--references",
    metavar="PATH",
    help="Compare keys with these references; `sample` for the shipped ones.  [default: from the settings]",
)
@_path(
    "--against",
    metavar="POLICY|DIR",
    help="Say what would change for customers: against another policy, or against what another version or "
    "other references found in the same events (the DIR of its --alerts-to).",
)
@click.option(
    "--price",
    type=click.FloatRange(min=0),
    metavar="AMOUNT",
    help="With --against: what a thousand calls are worth.",
)
@click.option(
    "--alert",
    "alert_id",
    metavar="ID",
    help="Make this alert and its decision again, and hold them against the recorded ones.",
)
@_path(
    "--run",
    "run_dir",
    metavar="DIR",
    help="With --alert: where it was recorded.  [default: the topics of the same brokers]",
)
@_path(
    "--alerts-to",
    metavar="DIR",
    help="Write alerts, decisions, commands and dead letters there as JSON lines.",
)
@_path(
    "--html",
    "page_file",
    dir_okay=False,
    metavar="FILE",
    help="Write a report page there, with --against also of what would change. Events are read twice, to "
    "follow the keys that were found.",
)
@output_option  # fmt: skip
def command(*, output: str, **options: Any) -> None:
    """Run recorded events through the same detection and policy as a worker's; nothing is sent.

    Reads files of JSON lines (.gz too, - for standard input) or a topic, with a range of offsets or times if
    wanted. The same input gives the same output, to the byte. Ctrl-C ends with what was read so far, and the
    result says that it is partial.

    With --alert, exit code 1 if the alert or its decision could not be made again exactly.
    """
    _refuse_misfits(options)
    # Imported here: detection brings numba, which --help and a wrong call need not wait for.
    from streams.cli.replayjob import make_job  # noqa: PLC0415

    with stop_on_interrupt() as stop:
        job = make_job(
            options["places"], options["settings_file"], options["policy"], options["references"], stop
        )
        if options["alert_id"] is not None:
            _reproduce(job, options["alert_id"], options["run_dir"], output)
        else:
            _replay(job, stop, output, **options)


def _refuse_misfits(options: dict[str, Any]) -> None:
    """Refuse options that do not go together, and a folder that has records already."""
    for option, needed in (("price", "against"), ("run_dir", "alert_id")):
        if options[option] is not None and options[needed] is None:
            names = {"price": "--price", "run_dir": "--run", "against": "--against", "alert_id": "--alert"}
            raise click.UsageError(f"{names[option]} goes with {names[needed]}. Add it.")
    folder = options["alerts_to"]
    if folder is not None and folder.is_dir() and any(folder.iterdir()):
        raise ModelwardenError(
            str(folder), "the folder is not empty, and records are never mixed", "Give another folder"
        )


def _replay(  # noqa: PLR0913 - one parameter per option
    job: ReplayJob,
    stop: Stop,
    output: str,
    *,
    against: Path | None,
    price: float | None,
    alerts_to: Path | None,
    page_file: Path | None,
    **_rest: Any,
) -> None:
    from streams.cli import replayview  # noqa: PLC0415 - rich is slow to import

    before = None if against is None else job.read_other(against)
    replay, summary = job.run()
    difference = None if before is None else job.difference(replay, before, price)
    if alerts_to is not None:
        _write(job, replay, summary, alerts_to)
    if page_file is not None:
        replayview.write_page(page_file, job.page(replay, summary, difference))
    if difference is not None and alerts_to is not None:
        _write_json(alerts_to / DIFFERENCE_FILE, difference)
    if output == "table" and difference is not None:
        replayview.show_difference(difference)
    elif output == "table":
        replayview.show_summary(summary, alerts_to)
    elif output == "json":
        print_json(difference or summary)
    else:
        print_rows(difference.keys if difference else summary.keys_alerted, {}, output)
    if output == "table" and page_file is not None:
        click.echo(f"The report is in {page_file}")
    _end(stop, output, complete=summary.complete)
    _refuse_junk(summary)


def _refuse_junk(summary: Replayed) -> None:
    """Say so if nothing that was read is an event: it is the wrong file."""
    if summary.rejected and not summary.events:
        count, reasons = sum(summary.rejected.values()), ", ".join(summary.rejected).replace("_", " ")
        why = f"none of its {count:,} lines is an event ({reasons})"
        raise ModelwardenError(
            ", ".join(summary.sources), why, "See deploy/docs/formats.md for what one looks like"
        )


def _end(stop: Stop, output: str, *, complete: bool) -> None:
    if not complete or stop.is_set():
        if output != "table":
            click.echo("Interrupted: this is a partial result.", err=True)
        raise SystemExit(EXIT_INTERRUPTED)


def _reproduce(job: ReplayJob, alert_id: str, run_dir: Path | None, output: str) -> None:
    from streams.cli import replayview  # noqa: PLC0415 - rich is slow to import

    result = job.reproduce(alert_id, run_dir)
    if output == "table":
        replayview.show_reproduced(result)
    else:
        print_json(result)
    if not result.exact:
        raise SystemExit(1)


def _write(job: ReplayJob, replay: Replay, summary: Replayed, folder: Path) -> None:
    from sinks.files import FileSink  # noqa: PLC0415 - see command

    with FileSink(folder) as sink:
        replay.collected.write(sink)
        job.states(replay).write(sink)
    _write_json(folder / SUMMARY_FILE, summary)


def _write_json(path: Path, record: msgspec.Struct) -> None:
    text = msgspec.json.format(msgspec.json.encode(record, order="deterministic"), indent=1)
    path.write_bytes(text + b"\n")
