"""The next fetch waits until little of the last is left to do; a worker that is behind, or stuck, is fed."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from streams.faustbatch import gate as module
from streams.faustbatch.fetch import use_blocks
from streams.faustbatch.gate import FEW_CHUNKS, MUCH_BYTES, FetchGate

FEW_BYTES = MUCH_BYTES - 1


class Worker:
    """Hands chunks over and processes them, in a thread that is not the consumer's."""

    def __init__(self) -> None:
        self.left = 0
        self.gate = FetchGate(lambda: self.left)

    def do(self, step: Any, *args: Any) -> None:
        thread = threading.Thread(target=step, args=args)
        thread.start()
        thread.join()

    def deliver(self, chunks: int) -> None:
        self.left += chunks
        self.gate.delivered()

    def process(self, chunks: int = 1) -> None:
        self.left -= chunks
        self.gate.check()


@pytest.fixture(autouse=True)
def no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_S", 60.0)


async def is_held(waiting: asyncio.Task[None]) -> bool:
    for _ in range(10):
        await asyncio.sleep(0)
    return not waiting.done()


def test_a_fetch_is_sent_when_few_chunks_are_left() -> None:
    async def run() -> None:
        worker = Worker()
        worker.gate.close(FEW_BYTES)
        waiting = asyncio.create_task(worker.gate.wait())
        worker.do(worker.deliver, FEW_CHUNKS + 2)
        assert await is_held(waiting)
        worker.do(worker.process)
        assert await is_held(waiting)
        worker.do(worker.process)
        await asyncio.wait_for(waiting, 5)

    asyncio.run(run())


def test_a_consumer_may_begin_again_in_another_loop() -> None:
    worker = Worker()

    async def run() -> None:
        worker.gate.close(FEW_BYTES)
        waiting = asyncio.create_task(worker.gate.wait())
        assert await is_held(waiting)
        worker.do(worker.deliver, 0)
        await asyncio.wait_for(waiting, 5)

    asyncio.run(run())
    asyncio.run(run())


def test_what_is_taken_but_not_handed_over_counts() -> None:
    async def run() -> None:
        worker = Worker()
        worker.gate.close(FEW_BYTES)
        waiting = asyncio.create_task(worker.gate.wait())
        worker.do(worker.process, 0)  # the end of something earlier
        assert await is_held(waiting)
        worker.do(worker.deliver, 0)  # dropped: the flow was stopped meanwhile
        await asyncio.wait_for(waiting, 5)

    asyncio.run(run())


@pytest.mark.parametrize("taken_bytes", [0, MUCH_BYTES])
def test_nothing_or_much_holds_nothing_back(taken_bytes: int) -> None:
    async def run() -> None:
        worker = Worker()
        worker.left = 100
        worker.gate.close(taken_bytes)
        assert not await is_held(asyncio.create_task(worker.gate.wait()))

    asyncio.run(run())


def test_a_worker_that_is_stuck_is_fed_and_held_back_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_S", 0.01)

    async def run() -> None:
        worker = Worker()
        worker.left = 100
        worker.gate.close(FEW_BYTES)
        await asyncio.wait_for(worker.gate.wait(), 5)
        monkeypatch.setattr(module, "LONGEST_S", 60.0)
        worker.gate.close(FEW_BYTES)
        assert await is_held(asyncio.create_task(worker.gate.wait()))

    asyncio.run(run())


def test_the_fetcher_sends_through_the_gate() -> None:
    sent: list[tuple[int, str]] = []

    async def send(node_id: int, request: str) -> None:
        sent.append((node_id, request))

    async def run() -> None:
        worker = Worker()
        fetcher: Any = SimpleNamespace(_client=SimpleNamespace(send=send))
        use_blocks(SimpleNamespace(_fetcher=fetcher), frozenset({"events"}), worker.gate)
        worker.gate.close(FEW_BYTES)
        lost = SimpleNamespace(active=False)  # what comes back belongs to nobody any more
        waiting = asyncio.create_task(fetcher._proc_fetch_request(lost, 3, "a request"))
        assert await is_held(waiting)
        assert not sent
        worker.do(worker.deliver, FEW_CHUNKS)
        assert not await asyncio.wait_for(waiting, 5)
        assert sent == [(3, "a request")]

    asyncio.run(run())
