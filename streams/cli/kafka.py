"""`modelwarden kafka`: one real Apache Kafka node on loopback, for trying things out."""

from __future__ import annotations

from pathlib import Path

import click

from streams.cli.output import examples, output_option, print_json
from streams.localkafka import LocalKafka

_run_dir = click.option(
    "--run-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("run/kafka"),
    show_default=True,
    help="Holds the node's data, log and process id.",
)


@click.group(
    "kafka", epilog=examples("modelwarden kafka up", "modelwarden topics create", "modelwarden kafka down")
)
def command() -> None:
    """Run one Apache Kafka node on 127.0.0.1 (needs Java 17 and Maven)."""


@command.command(epilog=examples("modelwarden kafka up --port 9092"))
@_run_dir
@output_option
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=9092, show_default=True, help="0 takes a free one."
)
def up(run_dir: Path, output: str, port: int) -> None:
    """Start the node and wait until it answers; harmless if it runs."""
    node = LocalKafka(run_dir, port=port, tell=lambda line: click.echo(line, err=True))
    node.start()
    _show(node, output)


@command.command(epilog=examples("modelwarden kafka down"))
@_run_dir
@output_option
def down(run_dir: Path, output: str) -> None:
    """Stop the node; its data stays."""
    node = LocalKafka(run_dir)
    if not node.stop() and output == "table":
        click.echo(f"no Kafka was running in {node.run_dir}", err=True)
    _show(node, output)


@command.command(epilog=examples("modelwarden kafka status -o json"))
@_run_dir
@output_option
def status(run_dir: Path, output: str) -> None:
    """Say whether the node runs, and where; exit code 1 if it does not."""
    node = LocalKafka(run_dir)
    _show(node, output)
    if not node.status().running:
        raise SystemExit(1)


def _show(node: LocalKafka, output: str) -> None:
    found = node.status()
    if output != "table":
        print_json(found)
    elif found.running:
        click.echo(f"Kafka runs at {found.bootstrap} (process {found.pid}, data in {found.run_dir})")
    else:
        click.echo(f"Kafka does not run (run directory {found.run_dir})")
