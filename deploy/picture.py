"""Draws the README's picture from a real run: `python -m deploy.picture`."""

from __future__ import annotations

import re
import tempfile
from io import StringIO
from pathlib import Path

from rich.console import Console

from streams.clock import SystemClock
from streams.demo import Demo
from streams.demoview import LiveView, attack_table, benign_line

WIDTH, HEIGHT = 104, 26


def main() -> None:
    """Run the demonstration as fast as possible and write what its terminal shows as SVG."""
    console = Console(record=True, width=WIDTH, height=HEIGHT, force_terminal=True, file=StringIO())
    console.print("[bold green]$[/] make run")
    with tempfile.TemporaryDirectory() as folder:
        demo = Demo(Path(folder), SystemClock())
        view = LiveView(console, demo.sandbox)
        result = demo.run(view, 0)
    console.print(view.frame())
    console.print(attack_table(result.attacks))
    console.print(benign_line(result))
    svg = console.export_svg(title="modelwarden")
    # Rich links a web font; the reader's own monospace does as well and loads nothing.
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    (Path(__file__).parent / "pictures" / "demo.svg").write_text(
        svg.replace("Fira Code, ", ""), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
