"""`modelwarden demo`: real attacks among real customers, found and stopped before your eyes."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sinks.errors import ModelwardenError
from streams.cli.output import examples, make_console, output_option, print_json, print_rows

if TYPE_CHECKING:
    from rich.console import Console

OWN_BROKER = "own"
NEEDED = ("fastapi", "uvicorn", "sklearn")
"""Of a whole deployment; the program itself does without."""


@click.command(
    "demo",
    epilog=examples(
        "modelwarden demo",
        "modelwarden demo --speed 500",
        "modelwarden demo --speed 0 -o json",
        "modelwarden demo --kafka                  # starts a broker of its own",
        "modelwarden demo --kafka 127.0.0.1:9092",
    ),
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
@click.option(
    "--kafka",
    is_flag=False,
    flag_value=OWN_BROKER,
    metavar="[HOST:PORT]",
    help="Show a whole deployment instead: a model server, clients over HTTP, worker and revoker, on Kafka.",
)
@output_option
def command(speed: float, run_dir: Path, kafka: str | None, output: str) -> None:
    """Watch real model-extraction attacks being found among real customers, explained and stopped.

    Streams the shipped sample through the same pipeline as a worker's, in this process. The sample's keys
    are sandboxed: a simulated serving layer obeys the signed commands. With --kafka nothing is simulated: a
    served model is attacked over HTTP, keys are throttled, suspended, revoked, and one is restored.
    """
    progress = make_console(err=output != "table")
    if kafka is not None:
        _show_deployment(kafka, run_dir, progress, output)
        return
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


def _show_deployment(kafka: str, run_dir: Path, progress: Console, output: str) -> None:
    """Start everything, show it, stop everything."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        why = f"{', '.join(missing)} not installed"
        do = "Run `pip install fastapi uvicorn scikit-learn` in the same environment"
        raise ModelwardenError("demo --kafka", why, do)
    # Imported here: detection brings numba, which --help need not wait for.
    from streams.demo import next_run_folder  # noqa: PLC0415
    from streams.live.deployment import Deployment  # noqa: PLC0415
    from streams.live.show import Show, show_result  # noqa: PLC0415
    from streams.localkafka import LocalKafka  # noqa: PLC0415

    def tell(line: str) -> None:
        progress.print(line, style="dim")

    folder = next_run_folder(run_dir).resolve()
    node = LocalKafka(folder / "kafka", tell=tell) if kafka == OWN_BROKER else None
    try:
        address = kafka if node is None else node.start()
        with Deployment(address, f"demo-{folder.name}.", folder, revocation_failures=2, tell=tell) as made:
            result = Show(made, progress).run()
    finally:
        if node is not None:
            node.stop()
    if output == "table":
        show_result(result, progress)
        progress.print(f"Logs, settings and keys: {folder}", style="dim")
    else:
        print_json(result)
