"""`modelwarden topics`: make the topics of a deployment and check them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from streams.cli.output import examples, output_option, print_json
from streams.settings import Settings, load_settings
from streams.topics import DEFAULT_PARTITIONS, TopicReport, check_topics, create_topics

if TYPE_CHECKING:
    from collections.abc import Callable


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--kafka", help="Bootstrap servers, host:port.  [default: from the settings]"),
        click.option("--prefix", help="Prefix of every topic.  [default: from the settings]"),
        click.option(
            "--settings", "settings_file", type=click.Path(path_type=Path), envvar="MODELWARDEN_SETTINGS"
        ),
        output_option,
    ):
        function = option(function)
    return function


@click.group(
    "topics", epilog=examples("modelwarden topics create --partitions 8", "modelwarden topics check -o json")
)
def command() -> None:
    """Make the topics, or check that they are what the worker needs."""


@command.command(epilog=examples("modelwarden topics create --kafka 127.0.0.1:9092 --partitions 8"))
@_options
@click.option("--partitions", type=click.IntRange(1), default=DEFAULT_PARTITIONS, show_default=True)
@click.option("--replication", type=click.IntRange(1), default=1, show_default=True)
def create(  # noqa: PLR0913 - one parameter per option
    *,
    kafka: str | None,
    prefix: str | None,
    settings_file: Path | None,
    output: str,
    partitions: int,
    replication: int,
) -> None:
    """Make the topics that are missing, then check all; exit code 1 if one is wrong."""
    settings = _settings(settings_file, kafka, prefix)
    _show(
        create_topics(
            settings.kafka,
            security=settings.kafka_security,
            prefix=settings.topic_prefix,
            partitions=partitions,
            replication=replication,
        ),
        output,
    )


@command.command(epilog=examples("modelwarden topics check --kafka 127.0.0.1:9092 -o json"))
@_options
@click.option("--partitions", type=click.IntRange(1), help="[default: as many as the events topic has]")
def check(
    kafka: str | None, prefix: str | None, settings_file: Path | None, output: str, partitions: int | None
) -> None:
    """Compare every topic with what it must be; exit code 1 if one is wrong."""
    settings = _settings(settings_file, kafka, prefix)
    _show(
        check_topics(
            settings.kafka,
            security=settings.kafka_security,
            prefix=settings.topic_prefix,
            partitions=partitions,
        ),
        output,
    )


def _settings(path: Path | None, kafka: str | None, prefix: str | None) -> Settings:
    settings = load_settings(path, os.environ)
    given = {
        name: value for name, value in {"kafka": kafka, "topic_prefix": prefix}.items() if value is not None
    }
    return msgspec.structs.replace(settings, **given)


def _show(reports: list[TopicReport], output: str) -> None:
    if output == "json":
        print_json(reports)
    elif output == "ndjson":
        for report in reports:
            print_json(report)
    else:
        for report in reports:
            click.echo(f"{'ok   ' if report.ok else 'WRONG'}  {report.topic}: {report.finding}")
    if not all(report.ok for report in reports):
        raise SystemExit(1)
