"""The documents hold: their code runs, their commands exist with these options, their links lead somewhere.

A `sh` block below the comment `run` is run, all of a page in one folder, in order; the commands of the others
are checked against the command line. `python` blocks of a page run in order in one namespace; a comment
`given NAME, NAME` says which of the names below they expect.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
import numpy as np
import pytest
import yaml

from streams import conformance
from streams.bus.memory import MemoryBus
from streams.cli import main

sys.path.insert(0, str(Path(__file__).parent))
from blocks import ROOT, Block, blocks, pages

if TYPE_CHECKING:
    from collections.abc import Iterator

SHELL = [
    (page, block) for page in pages() for block in blocks(page) if block.language in {"sh", "bash", "shell"}
]
OURS = re.compile(r"(?:^|[|(;&])\s*(?:\w+=\S+\s+)*(?:\S*/)?modelwarden\s+(?P<words>[^|;&)#\n`]*)")
BIN = Path(sys.executable).parent


def name(block: Block) -> str:
    return f"{block.page}:{block.line}"


def ids(listed: list[Any]) -> list[str]:
    return [name(block) for _, block in listed]


def given() -> dict[str, Any]:
    """Return what a provider has: the names that examples may use."""
    return {
        "pixels": np.zeros(784),
        "answer": [0.7, 0.2, 0.1],
        "api_key": "sk-canary-of-a-raw-key",
        "secret": bytes(range(32)),
        "now_ms": 1_767_571_200_000,
        "producer": MemoryBus({"modelwarden.events": 1}),
    }


def is_run(block: Block) -> bool:
    return block.note.startswith("run")


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", text):
        assert (page.parent / target).exists(), f"{page.name} points at {target}, which is not there"


@pytest.mark.parametrize("block", [b for p in pages() for b in blocks(p) if b.language == "python"], ids=name)
def test_python_is_python(block: Block) -> None:
    ast.parse(block.code)


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = given()
    for block in blocks(page):
        if block.language == "python" and not block.note.startswith(("file", "sketch")):
            exec(compile(block.code, name(block), "exec"), names)  # noqa: S102 - our own documents


@pytest.mark.parametrize(
    "block", [b for p in pages() for b in blocks(p) if b.language in {"yaml", "json"}], ids=name
)
def test_data_is_data(block: Block) -> None:
    if block.language == "json":
        for line in [block.code] if block.code.lstrip().startswith("[") else block.code.split("\n\n"):
            msgspec.json.decode(line)
    else:
        list(yaml.safe_load_all(block.code))


def commands(code: str) -> Iterator[list[str]]:
    for line in code.replace("\\\n", " ").splitlines():
        if not line.lstrip().startswith("#"):
            for match in OURS.finditer(line):
                yield shlex.split(match["words"].split("  #")[0].replace("<", " ").replace(">", " "))


@pytest.mark.parametrize(("page", "block"), SHELL, ids=ids(SHELL))
def test_commands_exist_with_these_options(page: Path, block: Block) -> None:
    del page
    for words in commands(block.code):
        command: click.Command = main
        context = click.Context(main, info_name="modelwarden")
        for word in words:
            if isinstance(command, click.Group) and not word.startswith("-"):
                found = command.get_command(context, word)
                assert found is not None, f"`modelwarden {' '.join(words)}`: there is no {word}"
                command = found
        known = {
            option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
        }
        for word in words:
            if re.match(r"--?[a-z]", word):
                option = word.split("=")[0]
                assert option in known | {"--help", "-h", "--debug", "--version"}, (
                    f"`{' '.join(words)}`: no {option}"
                )


RUN = [page for page in pages() if page.name != "tutorial.md" and any(map(is_run, blocks(page)))]


@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(ROOT)))
def test_shell_blocks_run(page: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "MODELWARDEN_ROOT": str(ROOT)}
    environment.pop("MODELWARDEN_KAFKA", None)
    del environment["MODELWARDEN_ROOT"]
    for block in filter(is_run, blocks(page)):
        code = block.code.replace("$MODELWARDEN_ROOT", str(ROOT))
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", code], cwd=tmp_path, env=environment, capture_output=True,
            text=True, check=False, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, f"{name(block)}\n{done.stdout}\n{done.stderr}"


def test_the_conformance_table_points_at_tests_that_exist() -> None:
    assert conformance.main(["--check"]) == 0
    table = conformance.load()
    assert len({row.id for row in table.rows}) == len(table.rows)
    for row in table.rows:
        assert row.source in table.sources
        assert row.tests or row.status == "not", row.id
        for test in row.tests:
            path, function = test.split("::")
            tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
            defined = {
                node.name
                for node in ast.walk(tree)
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            }
            assert function in defined, f"{row.id} points at {test}"


def test_generated_pages_are_what_the_code_says() -> None:
    from streams import settingsdoc  # noqa: PLC0415 - only this test wants it

    assert settingsdoc.main(["--check"]) == 0
