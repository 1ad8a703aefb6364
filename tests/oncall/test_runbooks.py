"""Every alert has a runbook, with its parts, and every command in it is one."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

import click
import pytest
from rulebook import DEPLOY, load_alerts

from streams.cli import main

if TYPE_CHECKING:
    from collections.abc import Sequence

RUNBOOKS = DEPLOY / "runbooks"
PARTS = ["What it means", "What to look at", "What to run", "How to undo", "Whom to wake"]
OTHER_PROGRAMS = {"amtool", "promtool"}


def parse(words: Sequence[str]) -> None:
    """Parse a call of modelwarden without running it. Raises click.UsageError."""
    command: click.Command = main
    context = click.Context(main, info_name="modelwarden")
    rest = list(words)
    while isinstance(command, click.Group):
        found = command.get_command(context, rest[0]) if rest else None
        if found is None:
            raise click.UsageError(f"no command {rest[:1]}")
        command, rest = found, rest[1:]
    if rest != ["--help"]:
        command.make_context("x", rest, resilient_parsing=False)


def commands(text: str) -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    spans = re.findall(r"`(modelwarden [a-z][^`]*)`", text)
    return [shlex.split(line, comments=True) for block in [*blocks, *spans] for line in block.splitlines()]


def test_there_is_one_for_each_alert_and_no_other() -> None:
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == set(load_alerts())


@pytest.mark.parametrize("alert", sorted(load_alerts()))
def test_a_runbook_has_its_parts_and_its_commands_parse(
    alert: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(str(tmp_path))
    text = (RUNBOOKS / f"{alert}.md").read_text()
    assert text.startswith(f"# {alert}\n")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == PARTS
    assert all(len(part) > 10 for part in re.split(r"^## .*$", text, flags=re.MULTILINE)[1:])
    found = commands(text)
    assert found, "nothing to run"
    for words in found:
        if words[0] not in OTHER_PROGRAMS:
            assert words[0] == "modelwarden", words
            parse(words[1:])


def test_a_command_that_is_none_is_found_out() -> None:
    for words in (["keys", "lst"], ["grafana", "plan", "--no-such"], ["canary", "--every", "soon"]):
        with pytest.raises(click.UsageError):
            parse(words)


def test_panels_and_metrics_named_in_runbooks_exist() -> None:
    titles = set()
    for path in (DEPLOY / "grafana" / "dashboards").glob("*.json"):
        titles |= set(re.findall(r'"title": "([^"]+)"', path.read_text()))
    for path in RUNBOOKS.glob("*.md"):
        for named in re.findall(r"`([A-Z][a-zA-Z, ]+)`", path.read_text()):
            assert named in titles, f"{path.name}: {named}"
