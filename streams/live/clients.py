"""Clients over HTTP: honest customers at their pace, and attackers who go on until their key is dead."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Callable

    from streams.live.traffic import Image, Questions

PATIENCE_S = 0.05
"""How long an attacker waits after a refusal before it asks the same again."""


@dataclass(eq=False)
class Client:
    """One API key and what became of its calls.

    Attributes
    ----------
    first_ms : dict of str to int
        When the first refusal of each kind came, milliseconds since 1970.
    order : list of str
        The kinds of refusal in the order of their first.
    """

    name: str
    api_key: str
    reference: str
    is_attacker: bool
    questions: Questions
    wait_s: float = 0.0
    answered: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    first_ms: dict[str, int] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    goes_on: Callable[[Client], bool] = lambda _client: True

    def note(self, kind: str, time_ms: int) -> None:
        """Count a refusal."""
        self.refused[kind] += 1
        if kind not in self.first_ms:
            self.first_ms[kind] = time_ms
            self.order.append(kind)


async def run_clients(clients: list[Client], url: str, stop: asyncio.Event) -> None:
    """Run every client until it is done or told to stop. Raises ClientError if the server goes away."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, connector=connector) as session:
        await asyncio.gather(*(_run(client, session, stop) for client in clients))


async def _run(client: Client, session: aiohttp.ClientSession, stop: asyncio.Event) -> None:
    question = next(client.questions)
    while not stop.is_set() and client.goes_on(client):
        answer = await ask(client, session, question)
        if answer is None:
            await asyncio.sleep(PATIENCE_S)
            continue
        question = client.questions.send(answer)
        if client.wait_s:
            await asyncio.sleep(client.wait_s)


async def ask(client: Client, session: aiohttp.ClientSession, image: Image) -> int | None:
    """Ask one question; return the answered class, or None if the call was refused."""
    headers = {"authorization": f"Bearer {client.api_key}"}
    async with session.post("/predict", json={"pixels": image.tolist()}, headers=headers) as response:
        told: Any = await response.json()
        if response.status == 200:
            client.answered += 1
            answer: list[float] = told["probabilities"]
            return max(range(len(answer)), key=answer.__getitem__)
        kind = told["error"]["type"] if "error" in told else f"status {response.status}"
        client.note(kind, time.time_ns() // 1_000_000)
        return None
