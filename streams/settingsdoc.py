"""Every setting with its unit, default and meaning, from the code: what the documents and `settings` show.

`python -m streams.settingsdoc` writes `deploy/docs/settings.md`; with `--check`, exit code 1 if it drifted.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import sys
import textwrap
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from sinks.serving.settings import ServingSettings
from streams.settings import PREFIX, Settings

DOCUMENT = Path(__file__).parents[1] / "deploy" / "docs" / "settings.md"
UNITS = {
    "_s": "seconds",
    "_ms": "milliseconds",
    "_bytes": "bytes",
    "_records": "records",
    "_events": "events",
    "_keys": "keys",
    "_share": "a share",
    "_ratio": "a share",
}
"""Unit by the end of a setting's name."""


class SettingDoc(msgspec.Struct, frozen=True, kw_only=True):
    """One setting."""

    setting: str
    variable: str | None
    """Environment variable; None where only a file can set it."""
    form: str
    """What may be written, with the unit."""
    default: str
    meaning: str


def describe(kind: type[msgspec.Struct] = Settings, prefix: str = "") -> list[SettingDoc]:
    """List the settings of a struct, sections in place, in the order of the code.

    Raises
    ------
    LookupError
        If a setting has no docstring.
    """
    listed: list[SettingDoc] = []
    for field in msgspec.structs.fields(kind):
        name = f"{prefix}{field.encode_name}"
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            listed += describe(field.type, f"{name}.")
            continue
        meaning = _docstrings(kind).get(field.name)
        if not meaning:
            raise LookupError(f"setting {kind.__name__}.{field.name} has no docstring")
        in_worker = kind is not ServingSettings
        listed.append(
            SettingDoc(
                setting=name,
                variable=PREFIX + name.upper().replace(".", "__") if in_worker else None,
                form=_form(field.type, field.name),
                default=_default(field),
                meaning=meaning,
            )
        )
    return listed


@cache
def _docstrings(kind: type) -> dict[str, str]:
    """Return the string below each field of a class, by name; msgspec does not keep them."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)  # noqa: S101 - it is the source of a class
    found = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            match below:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    found[field.target.id] = " ".join(text.split())
                case _:
                    pass
    return found


def _form(kind: Any, name: str) -> str:
    optional = type(None) in get_args(kind)
    if get_origin(kind) in {Union, UnionType}:
        (kind,) = (part for part in get_args(kind) if part is not type(None))
    limits = ""
    if get_origin(kind) is Annotated:
        kind, *notes = get_args(kind)
        limits = "".join(_limits(note) for note in notes if isinstance(note, msgspec.Meta))
    unit = next((unit for end, unit in UNITS.items() if name.endswith(end)), "")
    words = {int: "whole number", float: "number", str: "text", bool: "true or false", Path: "path"}
    if get_origin(kind) is Literal:
        written = ", ".join(f"`{choice}`" for choice in get_args(kind))
    elif get_origin(kind) in {tuple, frozenset}:
        written = "list"
    elif get_origin(kind) is dict:
        written = "map"
    else:
        written = words.get(kind, "text")
    of = f", {unit}," if unit and kind in {int, float} else ""
    return f"{written}{of}{limits}".rstrip(",") + (", or none" if optional else "")


def _limits(meta: msgspec.Meta) -> str:
    low = (
        f" above {meta.gt:,}" if meta.gt is not None else f" from {meta.ge:,}" if meta.ge is not None else ""
    )
    high = f" to {meta.le:,}" if meta.le is not None else f" below {meta.lt:,}" if meta.lt is not None else ""
    return f"{low}{high}"


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.default is not msgspec.NODEFAULT:
        value = field.default
    elif field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    else:
        return "required"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, frozenset):
        return ", ".join(sorted(value)) or "empty"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value) or "empty"


def document() -> str:
    """Write the page."""
    parts = [_INTRO]
    for title, kind, words in (
        ("The worker and the command line", Settings, _WORKER),
        ("A serving process", ServingSettings, _SERVING),
    ):
        parts.append(
            f"\n## {title}\n\n{words}\n\n| setting | form | default | meaning |\n|---|---|---|---|\n"
        )
        parts += [
            f"| `{doc.setting}` | {_cell(doc.form)} | `{_cell(doc.default)}` | {_cell(doc.meaning)} |\n"
            for doc in describe(kind)
        ]
    return "".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


_INTRO = """# Settings

<!-- Written by `python -m streams.settingsdoc` from the code. Change the docstrings there, not this page. -->

One file, YAML or TOML, named by `--settings` or `MODELWARDEN_SETTINGS`; environment variables override it. A
setting that is misspelt, of the wrong type or out of range stops the program with one line that names it.
`modelwarden settings show --origin` tells each value and where it comes from, without secrets.
"""
_WORKER = (
    "The variable of a setting is `MODELWARDEN_` and its name in capitals, with `__` for the dot: "
    "`dead_letters.max_share` is `MODELWARDEN_DEAD_LETTERS__MAX_SHARE`."
)
_SERVING = "A file named by the process itself or by `modelwarden sidecar`; see [serving](serving.md)."


def main(arguments: list[str] | None = None) -> int:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(prog="python -m streams.settingsdoc", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page has drifted")
    wanted = document()
    if not parser.parse_args(arguments).check:
        DOCUMENT.parent.mkdir(parents=True, exist_ok=True)
        DOCUMENT.write_text(wanted, encoding="utf-8")
        return 0
    if DOCUMENT.exists() and DOCUMENT.read_text(encoding="utf-8") == wanted:
        return 0
    sys.stderr.write(f"{DOCUMENT.name} has drifted. Run `python -m streams.settingsdoc`.\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
