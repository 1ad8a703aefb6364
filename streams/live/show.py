"""The whole deployment, shown to a person: who asks, what is found, what is done about it, and one undo."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from rich import box
from rich.console import Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from detectors.alert import Alert
from sinks.records import Acknowledgement, Command, Decision
from streams.bus.base import BusError
from streams.bus.kafka import KafkaBus
from streams.demoview import LEVEL_MARK, LEVEL_STYLE
from streams.live.clients import Client, run_clients
from streams.live.traffic import ATTACKS, PERSONAS, load_images

if TYPE_CHECKING:
    from rich.console import Console

    from streams.live.deployment import Deployment

FEED_LINES = 14
CALLS_AFTER_UNDO = 60
TIMEOUT_S = 180.0
WORDS = {
    "noise": "uniform noise, hidden",
    "knockoff": "Knockoff Nets, hidden",
    "jacobian": "Jacobian augmentation",
    "ordinary": "an app with ordinary use",
    "scanner": "a noisy scanner",
    "poller": "a poller",
    "video": "a video feed",
    "retries": "retry storms",
}
STATE_STYLE = {"rate_limited": "yellow", "key_suspended": "dark_orange", "key_revoked": "bold red"}


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What the demonstration showed."""

    schema: int = 1
    attacks: tuple[dict[str, Any], ...]
    honest_refused: int
    approved: int
    undone: str
    """Reference of the key that was restored."""
    calls_after_undo: int
    refused_after_undo: int


class Show:
    """Runs the clients, and tells what the topics tell.

    Parameters
    ----------
    deployment : Deployment
        Started.
    console : Console
        A terminal gets a view that redraws itself; anything else, lines.
    """

    def __init__(self, deployment: Deployment, console: Console) -> None:
        self._deployment = deployment
        self._console = console
        self._feed: deque[Text] = deque(maxlen=FEED_LINES)
        self._images, self._draw = load_images(), np.random.default_rng(7)
        self.attackers = [self._client(name, 0.1) for name in ATTACKS]
        self.honest = [self._client(name, 1.1) for name in PERSONAS]
        self._by_key = {one.reference: one for one in (*self.attackers, *self.honest)}
        self._done = threading.Event()
        self._approved: set[str] = set()

    def _client(self, name: str, wait_s: float) -> Client:
        key = f"sk-demo-{name}-{len(name):04d}"
        questions = (ATTACKS | PERSONAS)[name](self._images, self._draw)
        return Client(
            name=name,
            api_key=key,
            reference=self._deployment.reference(key),
            is_attacker=name in ATTACKS,
            questions=questions,
            wait_s=wait_s,
        )

    def run(self) -> Result:
        """Show everything; returns when every attacker's key is revoked, and one is restored."""
        reader = threading.Thread(target=self._read, daemon=True)
        reader.start()
        try:
            if self._console.is_terminal:
                with Live(console=self._console, get_renderable=self._frame, refresh_per_second=4):
                    return asyncio.run(self._run())
            return asyncio.run(self._run())
        finally:
            self._done.set()
            reader.join()

    async def _run(self) -> Result:
        stop = asyncio.Event()
        url = self._deployment.server_url
        background = asyncio.gather(run_clients(self.honest, url, stop), self._be_on_call(stop))
        try:
            await asyncio.to_thread(self._deployment.wait_until_detecting)
            for one in self.attackers:
                one.goes_on = lambda client: client.refused["key_revoked"] < 3
            await asyncio.wait_for(run_clients(self.attackers, url, stop), TIMEOUT_S)
            undone = await self._undo(self.attackers[-1])
        finally:
            stop.set()
            await background
        return Result(
            attacks=tuple(
                {
                    "name": WORDS[one.name],
                    "key": one.reference,
                    "answered": one.answered,
                    "refused": dict(one.refused),
                    "ladder": one.order,
                }
                for one in self.attackers
            ),
            honest_refused=sum(one.refused.total() for one in self.honest),
            approved=len(self._approved),
            undone=undone.reference,
            calls_after_undo=undone.answered,
            refused_after_undo=undone.refused.total(),
        )

    async def _be_on_call(self, stop: asyncio.Event) -> None:
        """Approve what waits for a person, at the terminal's own command line."""
        command = self._deployment.command
        while not stop.is_set():
            told = await asyncio.to_thread(command, "decisions", "pending", *self._place, "-o", "json")
            for waiting in json.loads(told):
                words = (waiting["decision_id"], *self._place, "--reason", "seen it", "--as", "you")
                self._say(Text(f"  you      modelwarden decisions approve {words[0][:12]}", "bold cyan"))
                await asyncio.to_thread(command, "decisions", "approve", *words)
                self._approved.add(words[0])
            await asyncio.sleep(1)

    async def _undo(self, client: Client) -> Client:
        """Restore a key, and let it do the same again."""
        told = await asyncio.to_thread(
            self._deployment.command, "decisions", "list", "--sent", *self._place, "-o", "json"
        )
        decision = next(
            one["decision_id"]
            for one in json.loads(told)
            if one["key"] == client.reference and one["command"]["action"] == "revoke"
        )
        self._say(Text(f"  you      modelwarden decisions undo {decision[:12]}", "bold cyan"))
        words = (decision, *self._place, "--reason", "their own test", "--as", "you")
        await asyncio.to_thread(self._deployment.command, "decisions", "undo", *words)
        again = self._client(client.name, 0.1)
        url, stop = self._deployment.server_url, asyncio.Event()
        waiting = self._client(client.name, 0.1)
        waiting.goes_on = lambda one: one.answered == 0  # the word is in force with the next snapshot
        await asyncio.wait_for(run_clients([waiting], url, stop), TIMEOUT_S)
        again.goes_on = lambda one: one.answered < CALLS_AFTER_UNDO
        self._by_key[client.reference] = self.attackers[-1] = again
        await asyncio.wait_for(run_clients([again], url, stop), TIMEOUT_S)
        self.attackers[-1] = client
        return again

    @property
    def _place(self) -> tuple[str, str]:
        return "--kafka", self._deployment.kafka

    def _read(self) -> None:
        """Tell what comes on the topics."""
        kinds: dict[str, type[Any]] = {"alerts": Alert, "commands": Command, "acks": Acknowledgement}
        kinds["decisions"] = Decision
        bus = KafkaBus(self._deployment.kafka)
        names = {self._deployment.prefix + name: name for name in kinds}
        try:
            for messages in bus.read(list(names), follow=True):
                for message in messages:
                    kind = kinds[names[message.topic]]
                    line = self._line(msgspec.json.decode(message.value or b"", type=kind))
                    if line is not None:
                        self._say(line)
                if self._done.is_set():
                    return
        except BusError as error:
            self._say(Text(str(error), "red"))
        finally:
            bus.close()

    def _line(self, record: Any) -> Text | None:
        client = self._by_key.get(getattr(record, "key", None) or "")
        who = "" if client is None else f"{record.key[:9]} {WORDS[client.name]:<24}"
        if isinstance(record, Alert) and record.subject == "key":
            mark = f"{LEVEL_MARK[record.level]} {record.level:<8} "
            families = ", ".join(record.families).replace("_", " ")
            tail = f" query {record.query_count}: {families}"
            return Text.assemble((mark, LEVEL_STYLE[record.level]), who, (tail, "dim"))
        if isinstance(record, Command):
            return Text.assemble((f"✔ {record.action:<8} ", "bold green"), who, (" signed, sent", "dim"))
        if isinstance(record, Decision) and record.pending_until_ms is not None:
            why = " one family: a person decides"
            return Text.assemble(("? waits    ", "bold magenta"), who, (why, "dim"))
        if isinstance(record, Acknowledgement) and record.enforcer == "revoker":
            return Text.assemble(("✔ provider ", "bold green"), who, (f" {record.outcome}", "dim"))
        return None

    def _say(self, line: Text) -> None:
        self._feed.append(line)
        if not self._console.is_terminal:
            self._console.print(line)

    def _frame(self) -> Panel:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for heading in ("client", "key", "answered", "throttled", "suspended", "revoked"):
            table.add_column(heading, justify="right" if heading not in {"client", "key"} else "left")
        for one in (*self.attackers, *self.honest):
            counts = (Text(f"{one.refused[kind]:,}" if one.refused[kind] else "-", style)
                      for kind, style in STATE_STYLE.items())  # fmt: skip
            style = "red" if one.is_attacker else "green"
            table.add_row(Text(WORDS[one.name], style), one.reference[:9], f"{one.answered:,}", *counts)
        feed = [*self._feed, *[Text("")] * (FEED_LINES - len(self._feed))]
        return Panel(
            Group(table, Text(""), *feed),
            title="[bold]Modelwarden[/]  a real model server, real clients, Apache Kafka",
            title_align="left",
            border_style="cyan",
            box=box.ROUNDED,
        )


def show_result(result: Result, console: Console) -> None:
    """Print what became of everybody."""
    for attack in result.attacks:
        ladder = " \u2192 ".join(kind.replace("_", " ") for kind in attack["ladder"])
        console.print(f"{attack['name']}: {attack['answered']} calls answered, then {ladder}")
    console.print(
        f"Honest customers refused: {result.honest_refused} calls. "
        f"Revocations that a person approved: {result.approved}."
    )
    console.print(
        f"After the undo, {result.undone[:9]} made {result.calls_after_undo} calls of the same attack: "
        f"{result.refused_after_undo} refused."
    )
