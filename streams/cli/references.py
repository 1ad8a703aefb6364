"""`modelwarden references`: what the workers have learned of honest keys, merged for all of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import click

from streams.cli.output import examples, print_rows
from streams.cli.sign import broker_options, read_settings
from streams.errors import ModelwardenError

if TYPE_CHECKING:
    from streams.learned import Shared

_COLUMNS = {
    "model": "model",
    "partition": "partition",
    "keys": "keys",
    "events": "events kept",
    "version": "version",
}
_MERGED = {
    "model": "model",
    "partitions": "partitions",
    "keys": "keys",
    "version": "version",
    "file": "file",
}


@click.group(
    "references",
    epilog=examples(
        "modelwarden references list",
        "modelwarden references merge references/",
        "modelwarden replay EVENTS --references references/ --against run/before",
    ),
)
def command() -> None:
    """See and merge what workers have learned of models that had no reference."""


@command.command("list", epilog=examples("modelwarden references list --kafka 127.0.0.1:9092 -o json"))
@broker_options
def list_references(*, kafka: str | None, settings_file: Path | None, output: str) -> None:
    """List what each partition has learned of each model."""
    rows = [
        {
            "model": one.model,
            "partition": one.partition,
            "keys": _keys(one),
            "events": 0 if one.reference.lesson is None else len(one.reference.lesson.margin),
            "version": one.reference.version,
        }
        for one in _read(kafka, settings_file)
    ]
    print_rows(rows, _COLUMNS, output, right=("partition", "keys", "events"))


@command.command("merge", epilog=examples("modelwarden references merge references/ --model mnist"))
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--model", "models", multiple=True, metavar="NAME", help="Only this; may be given again.")
@click.option("--yes", is_flag=True, help="Replace files that are there.")
@broker_options
def merge(  # noqa: PLR0913 - one argument an option
    folder: Path,
    models: tuple[str, ...],
    *,
    yes: bool,
    kafka: str | None,
    settings_file: Path | None,
    output: str,
) -> None:
    """Write one reference a model into FOLDER: what one would have learned from all partitions' keys.

    Replay history against the result before `references_path` names it.
    """
    from streams.learned import merge_shared  # noqa: PLC0415 - numba, which --help need not wait for

    shared = _read(kafka, settings_file)
    unknown = set(models) - {one.model for one in shared}
    if unknown:
        known = ", ".join(sorted({one.model for one in shared})) or "nothing yet"
        raise ModelwardenError(f"--model {min(unknown)}", "no partition has learned it", f"Learned: {known}")
    chosen = [one for one in shared if not models or one.model in models]
    if not chosen:
        why = "no worker has learned a reference yet"
        raise ModelwardenError("nothing to merge", why, "A model needs a thousand events and twenty keys")
    paths = {model: folder / f"{quote(model, safe='')}.reference" for model in {one.model for one in chosen}}
    there = sorted(str(path) for path in paths.values() if path.exists())
    if there and not yes:
        raise ModelwardenError(there[0], "it is there already", "Give another folder, or --yes to replace it")
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for model, reference in merge_shared(chosen).items():
        paths[model].write_bytes(reference.dump())
        own = [one for one in chosen if one.model == model]
        keys = sum(map(_keys, own))
        row = {"model": model, "partitions": len(own), "keys": keys, "version": reference.version}
        rows.append(row | {"file": str(paths[model])})
    print_rows(rows, _MERGED, output, right=("partitions", "keys"))


def _keys(one: Shared) -> int:
    return 0 if one.reference.lesson is None else len(one.reference.lesson.held)


def _read(kafka: str | None, settings_file: Path | None) -> list[Shared]:
    """Read the topic; what cannot be read is told, and left out."""
    from streams.bus.kafka import KafkaBus  # noqa: PLC0415 - see merge
    from streams.learned import TOPIC, read_shared  # noqa: PLC0415

    settings = read_settings(kafka, settings_file)
    bus = KafkaBus(settings.kafka, security=settings.kafka_security)
    try:
        shared, unread = read_shared(bus, settings.topic(TOPIC))
    finally:
        bus.close()
    for line in unread:
        click.echo(f"left out {line}", err=True)
    return shared
