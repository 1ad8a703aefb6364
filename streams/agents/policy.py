"""The policy agent: the newest policy on the `policy` topic into every pipeline.

Every worker needs every policy, so this reads outside the consumer group: to the topic's end before any event
is read, then on as policies come. A policy that is not valid is logged and the one in force stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from aiokafka import TopicPartition

from sinks.policyfile import Policy, parse_policy
from streams.errors import ModelwardenError, PolicyError
from streams.recovery import open_reader

if TYPE_CHECKING:
    from streams.app import WorkerApp
    from streams.settings import Settings

_POLL_MS = 1000

_log = structlog.get_logger(__name__)


class PolicyFeed:
    """The policy topic as one worker reads it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._place = TopicPartition(settings.topic("policy"), 0)
        self._reader: Any = None

    async def catch_up(self) -> Policy | None:
        """Connect and return the newest valid policy that stands on the topic, if any. Raises KafkaError."""
        self._reader = open_reader(self._settings.kafka)
        await self._reader.start()
        self._reader.assign([self._place])
        await self._reader.seek_to_beginning(self._place)
        end = (await self._reader.end_offsets([self._place]))[self._place]
        newest: Policy | None = None
        while await self._reader.position(self._place) < end:
            newest = await self.next() or newest
        return newest

    async def next(self) -> Policy | None:
        """Wait up to a second and return the newest valid policy that came, if any. Raises KafkaError."""
        newest: Policy | None = None
        for records in (await self._reader.getmany(timeout_ms=_POLL_MS)).values():
            for record in records:
                newest = self._parse(record) or newest
        return newest

    async def close(self) -> None:
        """Disconnect."""
        if self._reader is not None:
            await self._reader.stop()

    def _parse(self, record: Any) -> Policy | None:
        source = f"the policy at {record.topic}/{record.partition}/{record.offset}"
        try:
            if record.value is None:
                raise PolicyError(source, "it is a tombstone", "Publish a policy; the one in force stays")
            policy = parse_policy(record.value.decode(), source)
        except (ModelwardenError, UnicodeDecodeError) as error:
            _log.error("policy_refused", source=source, error=str(error))
            return None
        mode = self._settings.policy_mode
        return policy if mode is None else msgspec.structs.replace(policy, mode=mode)


def add_policy_agent(app: WorkerApp) -> None:
    """Follow the policy topic while the worker runs."""

    @app.task
    async def follow_policy() -> None:
        while not app.should_stop:
            policy = await app.policies.next()
            if policy is not None:
                await app.adopt(policy)
