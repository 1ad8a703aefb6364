"""`modelwarden top`: keys, evidence, alerts and commands as they come."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streams.cli.output import examples, make_console, output_option, print_json, print_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streams.findings import Findings

DEFAULT_RUNS = Path("run")


@click.command(
    "top",
    epilog=examples(
        "modelwarden top --kafka 127.0.0.1:9092",
        "modelwarden top --kafka 127.0.0.1:9092 --metrics 127.0.0.1:9464 --metrics 127.0.0.1:9465",
        "modelwarden top --run run/1 --once",
    ),
)
@click.option(
    "--run",
    "run_dir",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Follow a run's folder.  [default: the newest in ./run]",
)
@click.option("--kafka", metavar="HOST:PORT", help="Follow the topics there.")
@click.option(
    "--metrics",
    "addresses",
    multiple=True,
    metavar="HOST:PORT",
    help="Metrics endpoint of a worker; once for each.  [default: from the settings, with --kafka]",
)
@click.option(
    "--settings",
    "settings_file",
    type=click.Path(path_type=Path),
    envvar="MODELWARDEN_SETTINGS",
    help="Settings file; with --kafka, names the topics.",
)
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(0.2, 60),
    default=1.0,
    show_default=True,
    help="Seconds between readings.",
)
@click.option("--once", is_flag=True, help="Show what there is now, and stop.")
@output_option  # fmt: skip
def command(  # noqa: PLR0913 - one parameter per option
    *,
    run_dir: Path | None,
    kafka: str | None,
    addresses: tuple[str, ...],
    settings_file: Path | None,
    interval_s: float,
    once: bool,
    output: str,
) -> None:
    """Watch keys, their evidence, alerts and commands, from a running deployment or a run's folder.

    Reads only. With -o json or ndjson it prints where every key stands, once.
    """
    if kafka is not None and run_dir is not None:
        raise click.UsageError("Give --run or --kafka, not both.")
    # Imported here: numpy and rich, which --help need not wait for.
    from streams.clock import SystemClock  # noqa: PLC0415
    from streams.settings import load_settings  # noqa: PLC0415
    from streams.workerstats import WorkerReader  # noqa: PLC0415

    given = {} if kafka is None else {"MODELWARDEN_KAFKA": kafka}
    settings = load_settings(settings_file, {**os.environ, **given})
    if kafka is not None and not addresses:
        addresses = (f"{settings.metrics.host}:{settings.metrics.port}",)
    readings = _follow_folder(run_dir) if kafka is None else _follow_topics(settings)
    if output != "table":
        _print(next(readings), output)
        return
    workers = WorkerReader(addresses, SystemClock())
    if once or not make_console().is_terminal:
        _show_once(next(readings), workers.read())
    else:
        _show_live(readings, workers.read, interval_s)


def _print(found: Findings, output: str) -> None:
    from streams.standing import key_standings  # noqa: PLC0415 - see command

    standings = key_standings(found)
    if output == "json":
        print_json({"source": found.source, "keys": standings})
    else:
        print_rows(standings, {}, output)


def _show_once(found: Findings, stats: Any) -> None:
    from streams.topview import frame  # noqa: PLC0415 - rich is slow to import

    console = make_console()
    console.print(frame(found, stats, height=console.height if console.is_terminal else 60))


def _show_live(readings: Iterator[Findings], stats: Callable[[], Any], interval_s: float) -> None:
    from rich.live import Live  # noqa: PLC0415 - rich is slow to import

    from streams.topview import frame  # noqa: PLC0415

    console = make_console()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        for found in readings:
            live.update(frame(found, stats(), height=console.height), refresh=True)
            time.sleep(interval_s)


def _follow_folder(run_dir: Path | None) -> Iterator[Findings]:
    """Yield what a run's folder holds, again and again."""
    from streams.findings import newest_run, read_run  # noqa: PLC0415 - see command

    folder = run_dir or newest_run(DEFAULT_RUNS)
    while True:
        yield read_run(folder)


def _follow_topics(settings: Any) -> Iterator[Findings]:
    """Yield what the topics hold, again and again; only what is new is read."""
    from streams.bus.kafka import KafkaBus  # noqa: PLC0415 - see command
    from streams.findings import TopicFollower  # noqa: PLC0415

    bus = KafkaBus(settings.kafka, security=settings.kafka_security)
    try:
        follower = TopicFollower(bus, settings)
        while True:
            yield follower.read()
    finally:
        bus.close()
