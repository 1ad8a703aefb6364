"""`modelwarden kafka`: one real Apache Kafka node on loopback, for trying things out."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from streams.localkafka import LocalKafka

_run_dir = click.option(
    "--run-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("run/kafka"),
    show_default=True,
    help="Holds the node's data, log and process id.",
)
_output = click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True
)


@click.group("kafka")
def command() -> None:
    r"""Run one Apache Kafka node on 127.0.0.1 (needs Java 17 and Maven).

    \b
    Example:
      modelwarden kafka up
      modelwarden topics create
      modelwarden kafka down
    """


@command.command()
@_run_dir
@_output
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=9092, show_default=True, help="0 takes a free one."
)
def up(run_dir: Path, output: str, port: int) -> None:
    r"""Start the node and wait until it answers; harmless if it runs.

    \b
    Example:
      modelwarden kafka up --port 9092
    """
    node = LocalKafka(run_dir, port=port, tell=lambda line: click.echo(line, err=True))
    node.start()
    _show(node, output)


@command.command()
@_run_dir
@_output
def down(run_dir: Path, output: str) -> None:
    r"""Stop the node; its data stays.

    \b
    Example:
      modelwarden kafka down
    """
    node = LocalKafka(run_dir)
    if not node.stop() and output == "text":
        click.echo(f"no Kafka was running in {node.run_dir}", err=True)
    _show(node, output)


@command.command()
@_run_dir
@_output
def status(run_dir: Path, output: str) -> None:
    r"""Say whether the node runs, and where; exit code 1 if it does not.

    \b
    Example:
      modelwarden kafka status -o json
    """
    node = LocalKafka(run_dir)
    _show(node, output)
    if not node.status().running:
        raise SystemExit(1)


def _show(node: LocalKafka, output: str) -> None:
    found = node.status()
    if output == "json":
        click.echo(msgspec.json.encode(found).decode())
    elif found.running:
        click.echo(f"Kafka runs at {found.bootstrap} (process {found.pid}, data in {found.run_dir})")
    else:
        click.echo(f"Kafka does not run (run directory {found.run_dir})")
