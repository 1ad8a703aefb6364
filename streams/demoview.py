"""What a person sees of the demonstration: the live view, plain lines without a terminal, the final table."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from rich.console import Console

    from detectors.alert import Alert
    from sinks.records import Command
    from streams.demo import AttackResult, DemoResult
    from streams.sandbox import Customer, Sandbox

LEVEL_STYLE = {"notice": "yellow", "warning": "dark_orange", "critical": "bold red"}
LEVEL_MARK = {"notice": "●", "warning": "▲", "critical": "■"}
FEED_LINES = 26
"""Lines of alerts and commands at most; fewer on a low screen."""
FRAME_LINES = 7
NAME_WIDTH = 31
REFRESH_PER_S = 10
PLAIN_EVERY_EVENTS = 5_000


def clock_time(time_ms: int) -> str:
    """Write a traffic time as weekday and time of day, UTC."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%a %H:%M")


class LiveView:
    """A panel that redraws itself: progress, counts, and alerts and commands as they come."""

    def __init__(self, console: Console, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._console = console
        self._feed: deque[RenderableType] = deque(maxlen=FEED_LINES)
        self._progress = Progress(
            TextColumn("[bold]{task.fields[clock]}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            expand=True,
        )
        self._task = self._progress.add_task("", total=sandbox.calls_planned, clock="", rate="")
        self._live = Live(
            console=console, get_renderable=self.frame, refresh_per_second=REFRESH_PER_S, transient=True
        )

    def __enter__(self) -> Self:
        """Take the screen."""
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the screen back."""
        self._live.stop()

    def moved(self, time_ms: int) -> None:
        """Note that calls were made, up to an event time."""
        made = self._sandbox.calls_made
        rate = f"{self._sandbox.events_per_s:,.0f} events/s"
        self._progress.update(self._task, completed=made, clock=clock_time(time_ms), rate=rate)

    def alert(self, alert: Alert, customer: Customer) -> None:
        """Show an alert."""
        self._feed.append(alert_line(alert, customer))

    def command(self, command: Command, customer: Customer) -> None:
        """Show a command that the serving layer obeyed."""
        self._feed.append(command_line(command, customer))

    def frame(self) -> RenderableType:
        """Draw the panel as it stands."""
        sandbox = self._sandbox
        counts = Text.assemble(
            ("keys ", "dim"), f"{sandbox.keys_watched}",
            ("   answered ", "dim"), f"{sandbox.answered:,}",
            ("   refused ", "dim"), f"{sandbox.refused:,}",
            ("   alerted ", "dim"), (f"{sandbox.keys_alerted}", "yellow"),
            ("   stopped ", "dim"), (f"{sandbox.keys_stopped}", "bold red"),
            ("   customers harmed ", "dim"), _harmed(sandbox.keys_harmed),
        )  # fmt: skip
        room = max(3, min(FEED_LINES, self._console.height - FRAME_LINES))
        feed = list(self._feed)[-room:] or [Text("No alerts yet: everything looks like ordinary use.", "dim")]
        blank = [Text("")] * (room - len(feed))
        return Panel(
            Group(self._progress, counts, Text(""), *feed, *blank),
            title="[bold]Modelwarden[/]  real attacks among real customers, default policy enforced",
            title_align="left",
            border_style="cyan",
            box=box.ROUNDED,
        )


class PlainView:
    """The same as lines, for logs and pipes."""

    def __init__(self, console: Console, sandbox: Sandbox) -> None:
        self._console = console
        self._sandbox = sandbox
        self._next = PLAIN_EVERY_EVENTS

    def __enter__(self) -> Self:
        """Say what is about to be streamed."""
        sandbox = self._sandbox
        self._console.print(f"Streaming {sandbox.calls_planned:,} calls of {sandbox.keys_planned} keys")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Need no tidying."""

    def moved(self, time_ms: int) -> None:
        """Print a line every few thousand calls."""
        sandbox = self._sandbox
        if sandbox.calls_made >= self._next:
            self._next += PLAIN_EVERY_EVENTS
            self._console.print(
                f"{clock_time(time_ms)} {sandbox.calls_made:,} of {sandbox.calls_planned:,} calls, "
                f"{sandbox.events_per_s:,.0f} events/s, {sandbox.keys_watched} keys watched, "
                f"{sandbox.keys_alerted} alerted, {sandbox.keys_stopped} stopped"
            )

    def alert(self, alert: Alert, customer: Customer) -> None:
        """Print an alert."""
        self._console.print(alert_line(alert, customer))

    def command(self, command: Command, customer: Customer) -> None:
        """Print a command that the serving layer obeyed."""
        self._console.print(command_line(command, customer))


def alert_line(alert: Alert, customer: Customer) -> Text:
    """Write an alert on one line."""
    families = ", ".join(alert.families).replace("_", " ")
    return Text.assemble(
        (f"{clock_time(alert.time_ms)} ", "dim"),
        (f"{LEVEL_MARK[alert.level]} {alert.level:<8} ", LEVEL_STYLE[alert.level]),
        (f"{_short(alert.key)} ", "cyan"),
        f"{customer.words:<{NAME_WIDTH}} query {alert.query_count:<5,}",
        (f" {families}", "dim"),
        no_wrap=True,
        overflow="ellipsis",
    )


def command_line(command: Command, customer: Customer) -> Text:
    """Write an obeyed command on one line."""
    return Text.assemble(
        (f"{clock_time(command.issued_ms)} ", "dim"),
        (f"✔ {command.action:<8} ", "bold green"),
        (f"{_short(command.key)} ", "cyan"),
        f"{customer.words:<{NAME_WIDTH}} after {customer.answered:<5,}",
        (f" until {clock_time(command.expires_ms)}", "dim"),
        no_wrap=True,
        overflow="ellipsis",
    )


def benign_line(result: DemoResult) -> Text:
    """Say what became of the customers."""
    return Text.assemble(
        ("Benign keys: ", "bold"),
        f"{result.benign_watched} watched, {result.benign_noticed} noticed (alerted, not acted on), ",
        "harmed: ",
        _harmed(result.benign_harmed),
    )


def show_result(result: DemoResult, console: Console) -> None:
    """Print what became of every attack and every customer, and where the records lie."""
    console.print(attack_table(result.attacks))
    for attack in result.attacks:
        said = attack.sentence or f"not found within its {attack.queries_wanted:,} queries."
        console.print(Text.assemble((f"{attack.name}: ", "bold"), said))
    console.print()
    console.print(benign_line(result))
    console.print(
        f"{result.events:,} events in {result.seconds:.1f} s; {result.calls_refused:,} calls refused; "
        f"every command signed and verified.",
        style="dim",
    )
    files = Table.grid(padding=(0, 2))
    for what, path in result.files.items():
        files.add_row(Text(f"  {what}", "dim"), path)
    console.print("Written:")
    console.print(files)
    console.print("Next:")
    for line in result.next_commands:
        console.print(Text(f"  {line}", "cyan"))


def attack_table(attacks: tuple[AttackResult, ...]) -> Table:
    """Tell of each attack what it wanted, what it got, and when it was found and stopped."""
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, title="Attacks", title_justify="left", title_style="bold"
    )
    table.add_column("attack", no_wrap=True)
    table.add_column("model")
    for column in ("wanted", "answered", "alerted at", "stopped at", "saved"):
        table.add_column(column, justify="right")
    for attack in attacks:
        table.add_row(
            attack.name,
            attack.model,
            f"{attack.queries_wanted:,}",
            f"{attack.queries_answered:,}",
            _query(attack.alerted_at_query),
            _query(attack.stopped_at_query),
            Text(f"{100 * attack.saved_share:.0f} %", "bold green" if attack.saved_share else "red"),
        )
    return table


def _query(query: int | None) -> Text:
    return Text("never", "red") if query is None else Text(f"{query:,}")


def _harmed(count: int) -> tuple[str, str]:
    return f"{count}", "bold red" if count else "bold green"


def _short(reference: str) -> str:
    return reference[:9]
