"""`modelwarden support`: what somebody who helps needs to see, without secrets."""

from __future__ import annotations

import os
from pathlib import Path

import click

from streams.cli.output import examples, output_option, print_json
from streams.errors import ModelwardenError


@click.group(
    "support", epilog=examples("modelwarden support bundle", "modelwarden support bundle --log worker.log")
)
def command() -> None:
    """Gather what is needed to help, without secrets."""


@command.command(
    "bundle",
    epilog=examples(
        "modelwarden support bundle",
        "modelwarden support bundle --log worker.log --to bundle.tar.gz",
        "tar tzf modelwarden-support.tar.gz     # look through it before you send it",
    ),
)
@click.option(
    "--to",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("modelwarden-support.tar.gz"),
    show_default=True,
    help="Where to write it.",
)
@click.option(
    "--log",
    "logs",
    multiple=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Add the end of a log file; once for each.",
)
@click.option(
    "--settings",
    "settings_file",
    type=click.Path(path_type=Path),
    envvar="MODELWARDEN_SETTINGS",
    help="Settings file (YAML or TOML); the environment overrides it.",
)
@output_option  # fmt: skip
def bundle(path: Path, logs: tuple[Path, ...], settings_file: Path | None, output: str) -> None:
    """Write versions, checks, settings, topics and metrics into one archive; secrets are left out.

    Neither keys nor events, alerts, commands or state are read. An archive is never overwritten.
    """
    if path.exists():
        raise ModelwardenError(str(path), "it is there already", "Give another with --to, or remove it")
    # Imported here: the checks bring numba, which --help need not wait for.
    from streams.supportbundle import collect, pack  # noqa: PLC0415

    files = collect(settings_file, os.environ, logs)
    packed = pack(files)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packed)
    path.chmod(0o600)
    if output != "table":
        print_json({"archive": str(path), "size_bytes": len(packed), "files": sorted(files)})
        return
    click.echo(f"{path} ({len(packed) / 1024:,.0f} KiB): {', '.join(sorted(files))}")
    click.echo("Look through it before you send it. It was written without secrets.")
