"""Read configuration files strictly: a key given twice is an error, and unknown fields are named by path."""

from __future__ import annotations

import tomllib
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import yaml

from sinks.errors import FileFormatError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import msgspec


class _StrictLoader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice, where YAML would let the last one win."""


def _construct_mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for at, key in enumerate(keys):
        if key in keys[:at]:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} is given twice", node.value[at][0].start_mark
            )
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def read_config(path: Path) -> Any:
    """Read a YAML file, or TOML if its name ends in `.toml`, to plain objects; an empty file is `{}`.

    Raises
    ------
    FileFormatError
        If the file cannot be read, is not valid, or gives a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise FileFormatError(f"cannot read {path}", why, "Check the path and its permissions") from error
    return parse_config(text, str(path), toml=path.suffix == ".toml")


def parse_config(text: str, source: str, *, toml: bool = False) -> Any:
    """Parse the text of a configuration file; `source` names it in errors.

    Raises
    ------
    FileFormatError
        If the text is not valid, or gives a key twice.
    """
    try:
        parsed = tomllib.loads(text) if toml else yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, tomllib.TOMLDecodeError, TypeError, ValueError) as error:
        form = "TOML" if toml else "YAML"
        raise FileFormatError(f"{source} is not valid {form}", _where(error), "Correct that line") from error
    return {} if parsed is None else parsed


def _where(error: Exception) -> str:
    """Say what is wrong and on which line, without quoting the file, which may hold a secret."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return "it does not parse" if isinstance(error, TypeError) else str(error).splitlines()[0]
    return f"{getattr(error, 'problem', None) or 'it does not parse'} (line {mark.line + 1})"


def explain_form(error: msgspec.ValidationError, known: Iterable[str] = ()) -> str:
    """Say what msgspec found wrong, the whole path of the field first: `$.rules[0].conditons: no such field`.

    `known` are names of fields; the nearest to an unknown one is offered.
    """
    text, _, path = str(error).partition(" - at `")
    path = path.removesuffix("`") or "$"
    if not text.startswith("Object contains unknown field"):
        return f"{path}: {text[0].lower()}{text[1:]}"
    field = text.split("`")[1]
    near = get_close_matches(field, list(known), n=1)
    return f"{path}.{field}: no such field" + (f", perhaps `{near[0]}`" if near else "")
