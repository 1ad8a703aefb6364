"""What holds for every command: help with examples, output formats, errors, exit codes, speed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from sinks.errors import ModelwardenError
from streams.bus.base import BusError
from streams.cli import NOUNS, main

MODELWARDEN = Path(sys.executable).with_name("modelwarden")
PRINTS_NO_DATA = {
    *("worker", "annotate", "simulate", "completion", "reconcile", "sidecar", "revoker run", "revoker retry")
}
"""They run for their effect, or print something that is no record."""


def _walk(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    found: list[tuple[tuple[str, ...], click.Command]] = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        found.append(((*path, name), command))
        if isinstance(command, click.Group):
            found += _walk(command, (*path, name))
    return found


COMMANDS = _walk(main)
LEAVES = [(path, command) for path, command in COMMANDS if not isinstance(command, click.Group)]


@pytest.mark.parametrize("path", [(), *(path for path, _ in COMMANDS)], ids=" ".join)
def test_help_ends_in_an_example_line_that_calls_this_command(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, [*path, "--help"], prog_name="modelwarden")
    assert result.exit_code == 0, result.output
    # Verbatim: an examples block that click has refilled does not stand alone on its lines.
    _, heading, lines = result.output.partition("\n  Examples:\n")
    assert heading, result.output
    assert re.search(rf"^    .*{' '.join(('modelwarden', *path))}", lines, re.MULTILINE), lines


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=[" ".join(path) for path, _ in LEAVES])
def test_commands_that_print_data_offer_json(path: tuple[str, ...], command: click.Command) -> None:
    choices = {o: p.type for p in command.params for o in p.opts if isinstance(p.type, click.Choice)}
    if {path[0], " ".join(path)} & PRINTS_NO_DATA:
        assert "-o" not in choices
    else:
        chosen = choices["-o"]
        assert isinstance(chosen, click.Choice)
        assert {"table", "json", "ndjson"} <= set(chosen.choices)


def test_every_noun_of_the_help_has_its_module() -> None:
    nouns = {noun for section in NOUNS.values() for noun in section}
    modules = {path.stem for path in Path(str(sys.modules["streams.cli"].__file__)).parent.glob("*.py")}
    assert nouns == modules - {"__init__", "output", "place", "progress", "replayjob", "replayview", "sign"}


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    script = (
        "import sys; from streams.cli import main; main(['--help'], standalone_mode=False);"
        "heavy = {'numpy', 'numba', 'faust', 'kafka', 'rich', 'river'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([MODELWARDEN, "--help"], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.5


def test_a_wrong_call_is_a_usage_error() -> None:
    for words in (["nonsense"], ["doctor", "--nonsense"], ["replay"], ["doctor", "-o", "xml"]):
        assert CliRunner().invoke(main, words).exit_code == 2, words


class _Failing(click.Command):
    def __init__(self, error: BaseException) -> None:
        super().__init__("check", callback=self._fail)
        self._error = error

    def _fail(self) -> None:
        raise self._error


def _run_failing(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, *options: str
) -> tuple[int, str, BaseException | None]:
    group = click.Group("topics", commands=[_Failing(error)])
    monkeypatch.setattr("streams.cli.topics.command", group)
    result = CliRunner().invoke(main, [*options, "topics", "check"])
    assert not result.stdout
    return result.exit_code, result.stderr, result.exception


@pytest.mark.parametrize(
    "error",
    [ModelwardenError("a topic", "it is\nmissing", "Make it"), BusError("a topic: it is missing. Make it.")],
)
def test_what_an_operator_can_put_right_is_one_line(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    exit_code, said, _ = _run_failing(monkeypatch, error)
    assert exit_code == 1
    assert said == "Error: modelwarden topics check: a topic: it is missing. Make it.\n"
    _, said, raised = _run_failing(monkeypatch, error, "--debug")
    assert raised is error
    assert not said


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "secret"
    result = CliRunner().invoke(main, ["key", "reference", "--secret", str(missing)], input="x\n")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: modelwarden key reference: {missing}: No such file")


def test_a_defect_is_told_without_its_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    error = KeyError("sk-live-0123456789abcdef0123")
    exit_code, said, _ = _run_failing(monkeypatch, error)
    assert exit_code == 70
    assert "defect" in said
    assert "KeyError" in said
    assert "0123456789" not in said
    assert "Traceback" not in said


def test_ctrl_c_is_130_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    exit_code, said, _ = _run_failing(monkeypatch, KeyboardInterrupt())
    assert exit_code == 130
    assert said.strip() == "Interrupted."


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert f"_MODELWARDEN_COMPLETE={shell}_complete" in result.output


def test_completion_knows_subcommands() -> None:
    environ = {
        "_MODELWARDEN_COMPLETE": "bash_complete",
        "COMP_WORDS": "modelwarden key ex",
        "COMP_CWORD": "2",
    }
    done = subprocess.run(
        [MODELWARDEN], env={**os.environ, **environ}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["plain,explain"]


def test_nothing_piped_is_coloured() -> None:
    done = subprocess.run([MODELWARDEN, "settings", "show"], capture_output=True, check=True)
    assert b"\x1b" not in done.stdout
    assert b"topic_prefix" in done.stdout
