"""HTML from Python calls. Text is escaped unless it is `Markup` already."""

from __future__ import annotations

from html import escape
from typing import TypeAlias

_VOID = frozenset({"meta", "link", "br", "line", "circle", "rect", "path", "polyline"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Child: TypeAlias = "str | int | list[Markup] | tuple[Markup, ...] | None"


def tag(name: str, /, *children: Child, **attributes: object) -> Markup:
    """Return an element.

    Parameters
    ----------
    name : str
    *children : Markup, str, int, list of Markup, or None
        None is left out.
    **attributes
        `class_` is class, and other underscores are hyphens; one that is None or False is left out.
    """
    inside = "".join(map(_render, children))
    written = "".join(
        f' {_name(key)}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID and not inside:
        return Markup(f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{inside}</{name}>")


def join(*children: Child) -> Markup:
    """Return some elements one after the other."""
    return Markup("".join(map(_render, children)))


def _render(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, list | tuple):
        return "".join(child)
    return child if isinstance(child, Markup) else escape(str(child))


def _name(key: str) -> str:
    return "viewBox" if key == "viewBox" else key.rstrip("_").replace("_", "-")
