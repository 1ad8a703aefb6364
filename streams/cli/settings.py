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

    from streams.settingsdoc import SettingDoc


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One setting."""

    setting: str
    value: Any
    source: str
    """`default`, `file` or `environment`."""
    origin: str
    """The same with the file's path or the variable's name."""
    variable: str
    """The environment variable that overrides it."""
    default: str
    form: str
    meaning: str


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
        "modelwarden settings show --origin",
        "modelwarden settings show --origin -o ndjson | jq -r 'select(.source != \"default\") | .setting'",
    ),
)
@click.option(
    "--settings",
    "settings_file",
    type=click.Path(path_type=Path),
    envvar="MODELWARDEN_SETTINGS",
    help="Settings file (YAML or TOML); the environment overrides it.",
)
@click.option("--origin", is_flag=True, help="Say of each where it comes from, its default and meaning.")
@output_option
def show(*, settings_file: Path | None, origin: bool, output: str) -> None:
    """List every setting with its value; what may be a secret is left out.

    A setting that is wrong is an error that names it. With -o json, what it prints can be a settings file,
    unless --origin adds more to each.
    """
    # Imported here: settings bring numba, by the engine's, which --help need not wait for.
    from sinks.yamlfile import read_config  # noqa: PLC0415
    from streams.logs import redact  # noqa: PLC0415
    from streams.settings import load_settings  # noqa: PLC0415
    from streams.settingsdoc import describe  # noqa: PLC0415

    in_force = redact(msgspec.to_builtins(load_settings(settings_file, os.environ), enc_hook=str))
    if output == "json" and not origin:
        print_json(in_force)
        return
    in_file = {} if settings_file is None else dict(_flatten(read_config(settings_file)))
    values = dict(_flatten(in_force))
    rows = [_setting(doc, values[doc.setting], settings_file, in_file) for doc in describe()]
    columns = {"setting": "setting", "value": "value", "source": "from"}
    if origin:
        columns = {"setting": "setting", "value": "value", "origin": "from", "default": "default"}
    print_rows(rows, columns, output)


@command.command(
    "describe", epilog=examples("modelwarden settings describe", "modelwarden settings describe kafka")
)
@click.argument("name", required=False)
@output_option
def describe_settings(name: str | None, output: str) -> None:
    """Say what settings mean: NAME, or those that begin with it, or all."""
    from streams.settingsdoc import describe  # noqa: PLC0415 - see show

    docs = [doc for doc in describe() if doc.setting.startswith(name or "")]
    if not docs:
        raise click.UsageError(f"There is no setting {name}. `modelwarden settings describe` lists all.")
    columns = {"setting": "setting", "form": "form", "default": "default", "meaning": "meaning"}
    print_rows(docs, columns, output)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _setting(doc: SettingDoc, value: Any, path: Path | None, in_file: Mapping[str, Any]) -> Setting:
    variable = str(doc.variable)
    source, origin = "default", "default"
    if variable in os.environ:
        source, origin = "environment", f"variable {variable}"
    elif doc.setting in in_file:
        source, origin = "file", f"file {path}"
    return Setting(
        setting=doc.setting,
        value=value,
        source=source,
        origin=origin,
        variable=variable,
        default=doc.default,
        form=doc.form,
        meaning=doc.meaning,
    )
