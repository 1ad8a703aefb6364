"""`modelwarden demo`: real attacks among real customers, found and stopped before your eyes."""

from __future__ import annotations

from pathlib import Path

import click

from streams.cli.output import examples, make_console, output_option, print_json, print_rows


@click.command(
    "demo",
    epilog=examples("modelwarden demo", "modelwarden demo --speed 500", "modelwarden demo --speed 0 -o json"),
)
@click.option(
    "--speed",
    type=click.FloatRange(min=0),
    default=2000.0,
    show_default=True,
    help="Calls a second; 0 for as fast as this machine can.",
)
@click.option(
    "--run-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("run"),
    show_default=True,
    help="Each run gets a numbered folder in it.",
)
@output_option
def command(speed: float, run_dir: Path, output: str) -> None:
    """Watch real model-extraction attacks being found among real customers, explained and stopped.

    Streams the shipped sample through the same pipeline as a worker's, in this process. The sample's keys
    are sandboxed: a simulated serving layer obeys the signed commands.
    """
    progress = make_console(err=output != "table")
    progress.print("Loading (a first run compiles the detectors, which may take a minute)", style="dim")
    # Imported here: detection brings numba, which --help need not wait for.
    from streams.clock import SystemClock  # noqa: PLC0415
    from streams.demo import Demo, next_run_folder  # noqa: PLC0415
    from streams.demoview import LiveView, PlainView, show_result  # noqa: PLC0415

    demo = Demo(next_run_folder(run_dir), SystemClock())
    live = progress.is_terminal
    with LiveView(progress, demo.sandbox) if live else PlainView(progress, demo.sandbox) as view:
        result = demo.run(view, speed)
    if output == "table":
        show_result(result, progress)
    elif output == "json":
        print_json(result)
    else:
        print_rows(result.attacks, {}, output)
