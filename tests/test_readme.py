"""The README's code runs, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from click import Group
from click.testing import CliRunner

from streams.bus.memory import MemoryBus
from streams.cli import main
from streams.codec import decode_events

README = Path(__file__).parents[1] / "README.md"


def test_the_five_lines_emit_an_event_that_the_worker_reads() -> None:
    block = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    bus = MemoryBus({"modelwarden.events": 1})
    raw = "sk-canary-of-a-raw-key"
    names = {
        "pixels": np.zeros(784),
        "answer": [0.7, 0.2, 0.1],
        "api_key": raw,
        "secret": bytes(range(32)),
        "now_ms": 1_767_571_200_000,
        "producer": bus,
    }
    exec(block[1], names)  # noqa: S102 - our own README
    messages = [message for batch in bus.read(["modelwarden.events"]) for message in batch]
    assert raw.encode() not in (messages[0].value or b"")
    batch, rejections = decode_events(messages, "modelwarden.events")
    assert rejections == []
    assert batch is not None
    assert batch.models == ("digits",)


def test_every_command_that_the_readme_shows_exists() -> None:
    shown = set(re.findall(r"modelwarden ((?:[a-z]+ ?)+)", README.read_text(encoding="utf-8")))
    assert shown
    for words in shown:
        command: object = main
        context = CliRunner()
        path = []
        for word in words.split():
            if not isinstance(command, Group) or command.get_command(None, word) is None:  # type: ignore[arg-type]  # lazy groups need no context
                break
            command = command.get_command(None, word)  # type: ignore[arg-type]  # same
            path.append(word)
        assert path, f"`modelwarden {words}` is no command"
        assert context.invoke(main, [*path, "--help"]).exit_code == 0
