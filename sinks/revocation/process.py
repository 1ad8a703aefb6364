"""The revoker as a process: follows the commands, delivers the orders, acknowledges, tells metrics."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from sinks.allowlist import Allowlist
from sinks.errors import SigningError
from sinks.kafkasecurity import PLAINTEXT, KafkaSecurity
from sinks.metrics import catalogue
from sinks.revocation.outbox import Outbox
from sinks.revocation.revoker import RetrySettings, Revoker
from sinks.serving.commands import CommandTable
from sinks.serving.follower import TopicFollower
from sinks.serving.outlet import Outlet
from sinks.serving.settings import WatchedKeys

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sinks.metrics.instruments import Instruments
    from sinks.records import Acknowledgement
    from sinks.revocation.base import Adapter

MEASURE_S = 1.0


async def run_revoker(  # noqa: PLR0913 - each is one thing that an operator decides
    stop: asyncio.Event,
    adapter: Adapter,
    *,
    kafka: str,
    security: KafkaSecurity = PLAINTEXT,
    prefix: str,
    trusted_keys: Path,
    outbox_path: Path,
    name: str = "revoker",
    first_retry_s: float = 1.0,
    instruments: Instruments,
    beat: Callable[[], None],
) -> None:
    """Deliver until `stop` is set; what is under way is finished. Calls `beat` as long as it gets on.

    Raises
    ------
    ModelwardenError
        If the keys or the outbox cannot be used, then or later.
    """
    keys = WatchedKeys(trusted_keys)
    allowlist = Allowlist(keys.keys)
    table = CommandTable(keys.keys, allowlist=allowlist)
    outbox = Outbox(outbox_path)
    acks = Outlet(kafka, f"{prefix}acks", security=security)

    def tell(told: Acknowledgement) -> None:
        acks.put((told.key or "").encode(), msgspec.json.encode(told))

    retries = RetrySettings(first_s=first_retry_s)
    revoker = Revoker(table, outbox, adapter, tell, name=name, retries=retries)

    topics = [f"{prefix}allowlist", f"{prefix}commands"]
    follower = TopicFollower(kafka, topics, *_tasks(revoker, table, allowlist, keys), security=security)
    measuring = asyncio.create_task(_measure(revoker, outbox, instruments, beat))

    def is_ready() -> bool:
        follower.check()  # without it no order would come, and nobody be told
        return follower.is_ready

    acks.start()
    follower.start()
    try:
        await revoker.run(stop, is_ready)
    finally:
        measuring.cancel()
        await asyncio.to_thread(follower.stop)
        await asyncio.to_thread(acks.stop)
        await adapter.close()
        outbox.close()


def _tasks(
    revoker: Revoker, table: CommandTable, allowlist: Allowlist, keys: WatchedKeys
) -> tuple[Callable[[Any], None], Callable[[], None]]:
    """Return what is done with a record of either topic, and what from time to time."""

    def take(record: Any) -> None:
        if record.topic.endswith("commands"):
            revoker.take(record)
        elif record.value is not None:
            try:
                allowlist.take(record.value)
            except SigningError:
                revoker.counts["allow_refused"] += 1

    def tick() -> None:
        changed = keys.changed()
        if changed is not None:
            table.trust(changed)
        revoker.maintain()

    return take, tick


async def _measure(
    revoker: Revoker, outbox: Outbox, instruments: Instruments, beat: Callable[[], None]
) -> None:
    """Keep the metrics up to date."""
    told = {"done": 0, "dead": 0, "failed": 0}
    while True:
        for count, metric, labels in (
            ("done", catalogue.REVOCATIONS, {"outcome": "done"}),
            ("dead", catalogue.REVOCATIONS, {"outcome": "failed"}),
            ("failed", catalogue.REVOCATION_ATTEMPTS_FAILED, {}),
        ):
            now = revoker.counts[count]
            instruments.add(metric, now - told[count], **labels)
            told[count] = now
        for state in ("pending", "dead"):
            instruments.set(catalogue.REVOCATION_ORDERS, len(outbox.entries(state)), state=state)
        beat()
        await asyncio.sleep(MEASURE_S)
