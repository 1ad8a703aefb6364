"""The revoker: takes revocations and restores off the commands topic, and has the provider do them.

A process of its own (`modelwarden revoker`), so that a key store that hangs holds nothing else up. An order
is on disk before it is tried, and tried until it is done, given up (then a person must look) or overtaken by
a newer one for the key. What the provider did is acknowledged like any enforcement.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from sinks.records import Acknowledgement
from sinks.revocation.base import Adapter, Order, Rejected, Unavailable
from sinks.serving.clock import now_ms

if TYPE_CHECKING:
    from collections.abc import Callable

    from sinks.records import Command
    from sinks.revocation.outbox import Entry, Outbox
    from sinks.serving.commands import CommandTable
    from sinks.serving.enforcer import Acknowledge

POLL_S = 0.05

_log = logging.getLogger(__name__)


class RetrySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long an order is tried."""

    first_s: float = 1.0
    """Wait after the first failure; doubled after each, up to `longest_s`, give or take a fifth."""
    longest_s: float = 300.0
    attempts: int = 100
    """After so many an order is dead."""

    def wait_ms(self, attempts: int, chance: float) -> int:
        """Return how long to wait after so many attempts; `chance` lies in 0 to 1."""
        wait_s = min(self.longest_s, self.first_s * 2.0 ** min(attempts - 1, 60))
        return int(1000 * wait_s * (0.8 + 0.4 * chance))


class Revoker:
    """Turns commands into orders, and delivers them.

    Parameters
    ----------
    table : CommandTable
        Decides which commands are believed.
    outbox : Outbox
    adapter : Adapter
    tell : callable
        Takes each acknowledgement.
    name : str
        In acknowledgements.
    retries : RetrySettings
    clock : callable
        Milliseconds since 1970.
    """

    def __init__(  # noqa: PLR0913 - each is a part of its own
        self,
        table: CommandTable,
        outbox: Outbox,
        adapter: Adapter,
        tell: Acknowledge,
        *,
        name: str = "revoker",
        retries: RetrySettings | None = None,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        self.counts: Counter[str] = Counter()
        """Orders by what became of them: `taken`, `done`, `dead`, `failed` attempts; refused commands."""
        self._table = table
        self._outbox = outbox
        self._adapter = adapter
        self._tell = tell
        self._name = name
        self._retries = retries or RetrySettings()
        self._clock = clock

    def take(self, record: Any) -> None:
        """Take a record of the commands topic; called by the thread that follows it."""
        verdict = self._table.apply(record.value, self._clock())
        command = verdict.command
        if verdict.refusal is not None or command is None:
            self.counts[verdict.refusal or "malformed"] += 1
        elif command.action in {"revoke", "restore"} and self._outbox.put(
            _order(command), command.expires_ms, self._clock()
        ):
            self.counts["taken"] += 1

    def maintain(self) -> None:
        """Forget commands that are over."""
        self._table.expire(self._clock())

    async def deliver_due(self) -> int:
        """Try every order that is due, side by side; return how many."""
        due = self._outbox.due(self._clock())
        await asyncio.gather(*(self._deliver(entry) for entry in due))
        return len(due)

    async def run(self, stop: asyncio.Event, is_ready: Callable[[], bool]) -> None:
        """Deliver until told to stop; what is under way is finished.

        Nothing is delivered before the commands that stand have been read (`is_ready`): a revocation in the
        outbox may have been restored since.
        """
        while not stop.is_set():
            if not is_ready() or not await self.deliver_due():
                try:
                    await asyncio.wait_for(stop.wait(), POLL_S)
                except TimeoutError:
                    continue

    async def _deliver(self, entry: Entry) -> None:
        order = entry.order
        if entry.expires_ms <= self._clock():
            self._give_up(order, "its time was over before the provider took it")
            return
        if order.action == "revoke" and not self._still_stands(order):
            self._outbox.finish(order.command_id, "superseded", self._clock(), "it no longer stands")
            return
        self._outbox.begin(order.command_id, self._clock())
        try:
            await self._adapter.deliver(order)
        except Unavailable as error:
            self._fail(order, entry.attempts + 1, str(error))
        except Rejected as error:
            self._give_up(order, str(error))
        except Exception as error:  # noqa: BLE001 - an adapter's defect must not stop the others' orders
            self._fail(order, entry.attempts + 1, f"defect of the adapter: {type(error).__name__}")
        else:
            self.counts["done"] += 1
            self._outbox.finish(order.command_id, "done", self._clock())
            self._acknowledge(order, "enforced", None)
            _log.info("%s of %s done (command %s)", order.action, order.key, order.command_id)

    def _still_stands(self, order: Order) -> bool:
        """Look again, right before: the key may have been allowlisted, or another command may have come."""
        standing = self._table.lookup(order.key, order.model, order.tenant, self._clock())
        return any(one.command.command_id == order.command_id for one in standing)

    def _fail(self, order: Order, attempts: int, why: str) -> None:
        self.counts["failed"] += 1
        if attempts >= self._retries.attempts:
            self._give_up(order, why)
            return
        wait_ms = self._retries.wait_ms(attempts, random.random())  # noqa: S311 - spreads load, no secret
        now = self._clock()
        self._outbox.postpone(order.command_id, now + wait_ms, now, why)
        _log.warning("%s of %s failed: %s; again in %.1f s", order.action, order.key, why, wait_ms / 1000)

    def _give_up(self, order: Order, why: str) -> None:
        self.counts["dead"] += 1
        self._outbox.finish(order.command_id, "dead", self._clock(), why)
        self._acknowledge(order, "refused", why)
        _log.error("%s of %s given up: %s; see `modelwarden revoker list`", order.action, order.key, why)

    def _acknowledge(self, order: Order, outcome: Any, reason: str | None) -> None:
        told = Acknowledgement(
            command_id=order.command_id,
            key=order.key,
            enforcer=self._name,
            time_ms=self._clock(),
            outcome=outcome,
            reason=reason,
        )
        self._tell(told)


def _order(command: Command) -> Order:
    return Order(
        command_id=command.command_id,
        action=command.action,  # type: ignore[arg-type]
        key=command.key,
        model=command.model,
        tenant=command.tenant,
        alert_id=command.alert_id,
        reason=command.reason,
        issued_ms=command.issued_ms,
    )
