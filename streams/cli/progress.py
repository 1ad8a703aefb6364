"""What a long command owes a person: how far it is, and an orderly end on Ctrl-C."""

from __future__ import annotations

import signal
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from streams.cli.output import make_console

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

LINE_EVERY_S = 10.0
"""Without a terminal, a line this often."""
EXIT_INTERRUPTED = 130


class Stop(threading.Event):
    """Set once a person asked for the end."""

    def __init__(self) -> None:
        super().__init__()
        self.may_raise = False

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let Ctrl-C interrupt what runs inside: a wait for input that may never come."""
        self.may_raise = True
        try:
            yield
        finally:
            self.may_raise = False


@contextmanager
def stop_on_interrupt() -> Iterator[Stop]:
    """Yield what the first Ctrl-C (or SIGTERM) sets; a second one interrupts at once."""
    stop = Stop()

    def interrupted(_number: int, _frame: FrameType | None) -> None:
        is_second = stop.is_set()
        stop.set()
        if is_second or stop.may_raise:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupted) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def show_progress(what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Yield a function that takes how many are done: a bar on a terminal, a line now and then without.

    Parameters
    ----------
    what : str
        What is going on, as an imperative.
    total : int
        How many there are to do; 0 if that is not known.
    unit : str
        What is counted.
    """
    if not sys.stderr.isatty():
        yield _lines(what, total, unit)
        return
    # Imported here: slow, and not needed without a terminal.
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        *([DownloadColumn()] if unit == "bytes" else [MofNCompleteColumn(), TextColumn(unit)]),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=make_console(err=True), transient=True) as bar:
        task = bar.add_task(what, total=total or None)
        yield lambda done: bar.update(task, completed=done)


def _lines(what: str, total: int, unit: str) -> Callable[[int], None]:
    due = time.monotonic() + LINE_EVERY_S

    def tell(done: int) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + LINE_EVERY_S
            of = f" of {total:,}" if total else ""
            click.echo(f"{what}: {done:,}{of} {unit}", err=True)

    return tell
