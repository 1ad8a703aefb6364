"""`modelwarden settings`: the settings in force, and where each comes from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from streams.cli.output import examples, output_option, print_json, print_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One setting."""

    setting: str
    value: Any
    source: str
    """`default`, `file` or `environment`."""
    variable: str
    """The environment variable that overrides it."""


@click.group(
    "settings",
    epilog=examples(
        "modelwarden settings show",
        "MODELWARDEN_KAFKA=broker-1:9092 modelwarden settings show --settings modelwarden.yaml",
    ),
)
def command() -> None:
    """Show the settings in force: one file, overridden by the environment, over the defaults."""


@command.command(
    "show",
    epilog=examples(
        "modelwarden settings show",
        "modelwarden settings show -o ndjson | jq -r 'select(.source != \"default\") | .variable'",
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
def show(settings_file: Path | None, output: str) -> None:
    """List every setting with its value and where it comes from; secrets are left out.

    A setting that is wrong is an error that names it.
    """
    # Imported here: settings bring numba, by the engine's, which --help need not wait for.
    from sinks.yamlfile import read_config  # noqa: PLC0415
    from streams.logs import redact  # noqa: PLC0415
    from streams.settings import load_settings  # noqa: PLC0415

    in_force = redact(msgspec.to_builtins(load_settings(settings_file, os.environ), enc_hook=str))
    if output == "json":
        print_json(in_force)
        return
    in_file = {} if settings_file is None else dict(_flatten(read_config(settings_file)))
    rows = [_setting(name, value, in_file) for name, value in _flatten(in_force)]
    columns = {"setting": "setting", "value": "value", "source": "from", "variable": "variable"}
    print_rows(rows, columns, output)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _setting(name: str, value: Any, in_file: Mapping[str, Any]) -> Setting:
    variable = f"MODELWARDEN_{name.upper().replace('.', '__')}"
    source = "environment" if variable in os.environ else "file" if name in in_file else "default"
    return Setting(setting=name, value=value, source=source, variable=variable)
