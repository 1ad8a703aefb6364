"""The revoker as a process on a real broker: an outbox that refuses ends it, and loses no order."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from signed import KEY, signed

from sinks.metrics.instruments import Instruments
from sinks.revocation.journal import JournalAdapter
from sinks.revocation.outbox import Outbox, OutboxError
from sinks.revocation.process import run_revoker
from sinks.serving.clock import now_ms
from sinks.signing import generate_key, load_signer
from streams.bus.kafka import KafkaBus
from streams.topics import create_topics

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.kafka
HOUR_MS = 3_600_000


class Case:
    """One revoker at a time, with a deployment of its own."""

    def __init__(self, kafka: str, folder: Path) -> None:
        self.kafka, self.folder, self.prefix = kafka, folder, f"revoker-{uuid4().hex[:8]}."
        create_topics(kafka, prefix=self.prefix, partitions=2)
        generate_key(folder / "signing.pem")
        self.signer = load_signer(folder / "signing.pem")
        self.journal = JournalAdapter(folder / "journal.jsonl")

    def revoke(self) -> None:
        now = now_ms()
        command = signed(self.signer, action="revoke", issued_ms=now, expires_ms=now + HOUR_MS)
        bus = KafkaBus(self.kafka)
        bus.send(f"{self.prefix}commands", command, key=KEY.encode() + b"/digits")
        bus.flush()
        bus.close()

    async def run(self, stop: asyncio.Event) -> None:
        await run_revoker(
            stop,
            self.journal,
            kafka=self.kafka,
            prefix=self.prefix,
            trusted_keys=self.folder / "signing.pem.pub",
            outbox_path=self.folder / "outbox.sqlite",
            instruments=Instruments("revoker"),
            beat=lambda: None,
        )

    async def run_until_delivered(self) -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(self.run(stop))
        while not self.journal.orders() and not running.done():  # noqa: ASYNC110 - a file is looked at
            await asyncio.sleep(0.05)
        stop.set()
        await running


def test_an_outbox_that_takes_no_order_ends_the_process_and_the_order_is_done_after_a_restart(
    kafka_broker: str, tmp_path: Path
) -> None:
    case = Case(kafka_broker, tmp_path)
    Outbox(tmp_path / "outbox.sqlite").close()
    with closing(sqlite3.connect(tmp_path / "outbox.sqlite")) as other:
        other.execute(
            "CREATE TRIGGER full BEFORE INSERT ON orders BEGIN SELECT RAISE(FAIL, 'disk full'); END"
        )
        other.commit()
        case.revoke()
        with pytest.raises(OutboxError, match=r"outbox .*outbox\.sqlite: disk full\. Free space"):
            asyncio.run(asyncio.wait_for(case.run(asyncio.Event()), 30))
        assert case.journal.orders() == []
        other.execute("DROP TRIGGER full")
        other.commit()
    asyncio.run(asyncio.wait_for(case.run_until_delivered(), 30))
    assert [(one.action, one.key) for one in case.journal.orders()] == [("revoke", KEY)]
