"""`modelwarden evaluate`: run labelled traces by the protocol and print the scoreboard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from streams.cli.output import examples, make_console, output_option, print_rows

if TYPE_CHECKING:
    from streams.evaluate import Half
    from streams.report import Report
    from streams.traces import KeyTrace


@click.command(
    "evaluate",
    epilog=examples(
        "modelwarden evaluate traces/ --report out.json --html out.html",
        "modelwarden evaluate traces/ --techniques deploy/docs/techniques.md",
        "modelwarden evaluate traces/ --calibrate-on odd",
        "modelwarden evaluate traces/ --live --attacks 'jbda,knockoff*'",
        "modelwarden evaluate traces/ -o ndjson | jq -c 'select(.kind == \"mix\")'",
    ),
)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--report", type=click.Path(dir_okay=False, path_type=Path), help="Write everything here as JSON."
)
@click.option(
    "--html", "page_file", type=click.Path(dir_okay=False, path_type=Path), help="Write a report page here."
)
@click.option(
    "--techniques",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the page of techniques here, Markdown.",
)
@click.option("--live", is_flag=True, help="From a cold start, all keys interleaved by time.")
@click.option(
    "--attacks", default="", help="With --live: names or patterns, by comma.  [default: undivided ones]"
)
@click.option(
    "--calibrate-on",
    "half",
    type=click.Choice(["even", "odd"]),
    default="even",
    show_default=True,
    help="The half of the benign keys that calibrates; the other half is measured.",
)
@click.option(
    "--without-parameters",
    is_flag=True,
    help="Judge LLM traces by sketches, answers and time only.",
)
@output_option
def command(  # noqa: PLR0913, PLR0917 - one argument an option
    folder: Path,
    report: Path | None,
    page_file: Path | None,
    techniques: Path | None,
    attacks: str,
    output: str,
    *,
    live: bool,
    half: Half,
    without_parameters: bool,
) -> None:
    """Measure detection and false alarms on the labelled traces in FOLDER.

    Benign keys with an even number calibrate, those with an odd number are measured. With --calibrate-on odd
    it is the other way round: how far results depend on which customers were known.
    """
    _refuse_misfits(attacks, techniques, half, live=live)
    # Imported here: detection brings numba, which --help and a wrong call need not wait for.
    from streams.scoreboard import show  # noqa: PLC0415
    from streams.traces import drop_parameters, read_folder  # noqa: PLC0415

    traces = read_folder(folder)
    if without_parameters:
        traces = drop_parameters(traces)
    result = _run(traces, [name.strip() for name in attacks.split(",") if name.strip()], half, live=live)
    if report is not None:
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_bytes(result.dump())
    if page_file is not None:
        from streams.cli.report import write_page  # noqa: PLC0415
        from streams.html.scores import evaluation_page  # noqa: PLC0415

        write_page(page_file, evaluation_page(result))
    if techniques is not None:
        from streams.techniques import render  # noqa: PLC0415

        techniques.write_text(render(result), encoding="utf-8")
    if output == "table":
        console = make_console()
        show(result, console)
        for written in filter(None, (report, page_file, techniques)):
            console.print(f"The report is in {written}", style="dim")
    elif output == "json":
        click.echo(result.dump(), nl=False)
    else:
        print_rows(result.traces, {}, output)


def _refuse_misfits(attacks: str, techniques: Path | None, half: Half, *, live: bool) -> None:
    """Refuse options that do not go together."""
    if live and half != "even":
        raise click.UsageError(
            "--calibrate-on goes without --live: from a cold start nobody calibrates. Leave one out."
        )
    if attacks and not live:
        raise click.UsageError("--attacks goes with --live: without it every attack is run. Add --live.")
    if techniques is not None and live:
        raise click.UsageError("--techniques goes without --live: the page tells of calibrated detection.")


def _run(traces: list[KeyTrace], patterns: list[str], half: Half, *, live: bool) -> Report:
    """Evaluate, with progress on standard error."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    from streams.evaluate import choose_live, evaluate, evaluate_live, to_run  # noqa: PLC0415

    chosen = choose_live(traces, patterns) if live else to_run(traces, half)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("events, left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=make_console(err=True), transient=True) as bar:
        task = bar.add_task("run" if live else "calibrate", total=sum(map(len, chosen)))

        def tick(events: int) -> None:
            bar.update(task, advance=events, description="run")

        return evaluate_live(chosen, tick=tick) if live else evaluate(traces, tick=tick, half=half)
