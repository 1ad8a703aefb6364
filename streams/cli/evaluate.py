"""`modelwarden evaluate`: run labelled traces by the protocol and print the scoreboard."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from streams.evaluate import choose_live, evaluate, evaluate_live, to_run
from streams.scoreboard import show
from streams.traces import read_folder


@click.command("evaluate")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--report", type=click.Path(dir_okay=False, path_type=Path), help="Write everything here as JSON."
)
@click.option("--live", is_flag=True, help="From a cold start, all keys interleaved by time.")
@click.option(
    "--attacks", default="", help="With --live: names or patterns, by comma. [default: undivided ones]"
)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(folder: Path, report: Path | None, attacks: str, output: str, *, live: bool) -> None:
    r"""Measure detection and false alarms on the labelled traces in FOLDER.

    Benign keys with an even number calibrate, those with an odd number are measured.

    \b
    Example:
      modelwarden evaluate traces/ --report out.json
      modelwarden evaluate traces/ --live --attacks 'jbda,knockoff*'
    """
    if attacks and not live:
        raise click.UsageError("--attacks goes with --live: without it every attack is run. Add --live.")
    traces = read_folder(folder)
    patterns = [pattern.strip() for pattern in attacks.split(",") if pattern.strip()]
    chosen = choose_live(traces, patterns) if live else to_run(traces)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("events"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task("evaluate", total=sum(map(len, chosen)))

        def tick(events: int) -> None:
            bar.advance(task, events)

        result = evaluate_live(chosen, tick=tick) if live else evaluate(traces, tick=tick)
    if report is not None:
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_bytes(result.dump())
    if output == "json":
        click.echo(result.dump(), nl=False)
    else:
        console = Console(width=None if Console().is_terminal else 120, highlight=False)
        show(result, console)
        if report is not None:
            console.print(f"The report is in {report}", style="dim")
