"""`modelwarden warmup`: compile the kernels ahead of the first worker."""

from __future__ import annotations

import os
from pathlib import Path

import click
from rich.table import Table

from detectors.kernelcache import CACHE, remove_old_kernels
from streams.cli.output import examples, make_console, output_option, print_json
from streams.settings import load_settings


@click.command(
    "warmup",
    epilog=examples(
        "modelwarden warmup", "NUMBA_CACHE_DIR=/var/cache/modelwarden modelwarden warmup -o json"
    ),
)
@click.option(
    "--settings",
    "settings_file",
    type=click.Path(path_type=Path),
    envvar="MODELWARDEN_SETTINGS",
    help="Settings file (YAML or TOML); the environment overrides it.",
)
@output_option
def command(settings_file: Path | None, output: str) -> None:
    """Compile every kernel, so that workers start in seconds.

    Workers compile what is missing before they subscribe; this fills their cache, which a container image
    may carry: set NUMBA_CACHE_DIR to the same directory here and at the workers. What older versions of the
    program left there is removed.
    """
    settings = load_settings(settings_file, os.environ)
    from streams.pipeline import build_pipeline  # noqa: PLC0415 - slow to import
    from streams.warmup import warm_up  # noqa: PLC0415 - same

    steps = warm_up(build_pipeline, settings)
    removed = remove_old_kernels()
    kernels = 0 if CACHE is None else sum(1 for _ in CACHE.rglob("*.nbc"))
    if output == "json":
        told = {
            "steps": [step._asdict() for step in steps],
            "cache": CACHE and str(CACHE),
            "kernels": kernels,
        }
        print_json(told | {"removed_caches": removed})
        return
    table = Table("step", "seconds", box=None)
    for step in steps:
        table.add_row(step.step, f"{step.seconds:.2f}")
    make_console().print(table)
    where = (
        f"{kernels} kernels in {CACHE}"
        if CACHE
        else "no cache: no directory can be written to, set NUMBA_CACHE_DIR"
    )
    click.echo(f"Warm in {sum(step.seconds for step in steps):.1f} s; {where}")
