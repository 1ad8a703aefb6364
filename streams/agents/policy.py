"""The policy agent: the newest policy and allowlist from their topics into every pipeline.

Every worker needs all of them, so this reads outside the consumer group: to the topics' ends before any event
is read, then on as records come. What is not valid, not signed by who may, or older than what was accepted is
logged and counted, and what is in force stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from aiokafka import TopicPartition

from sinks import allowlist, policytopic
from sinks.allowlist import Allowlist
from sinks.metrics import catalogue
from sinks.policytopic import PolicyInForce, PolicyLedger
from sinks.trustedkeys import TrustedKeys
from streams.errors import ModelwardenError
from streams.recovery import open_reader
from streams.trust import trusted_keys

if TYPE_CHECKING:
    from sinks.metrics.instruments import Instruments
    from streams.app import WorkerApp
    from streams.settings import Settings

_POLL_MS = 1000

_log = structlog.get_logger(__name__)


class PolicyFeed:
    """The policy and allowlist topics as one worker reads them.

    Parameters
    ----------
    settings : Settings
    initial : PolicyInForce
        From the settings' file, until there is one on the topic.
    instruments : Instruments
        Count what is refused.

    Raises
    ------
    FileFormatError, SigningError
        If the trusted keys of the settings cannot be used.
    """

    def __init__(self, settings: Settings, initial: PolicyInForce, instruments: Instruments) -> None:
        trusted = trusted_keys(settings) or TrustedKeys(())
        self._settings = settings
        self._instruments = instruments
        self._ledger, self._allowlist = PolicyLedger(trusted), Allowlist(trusted)
        self._current = initial
        self._places = {
            TopicPartition(settings.topic(policytopic.TOPIC), 0): self._take_policy,
            TopicPartition(settings.topic(allowlist.TOPIC), 0): self._take_allow,
        }
        self._reader: Any = None

    async def catch_up(self) -> PolicyInForce | None:
        """Connect and return what the topics say now, if they say anything. Raises KafkaError."""
        self._reader = open_reader(self._settings.kafka, security=self._settings.kafka_security)
        await self._reader.start()
        self._reader.assign(list(self._places))
        await self._reader.seek_to_beginning(*self._places)
        ends = await self._reader.end_offsets(list(self._places))
        newest: PolicyInForce | None = None
        while [place for place, end in ends.items() if await self._reader.position(place) < end]:
            newest = await self.next() or newest
        return newest

    async def next(self) -> PolicyInForce | None:
        """Wait up to a second and return what is to be in force if a record changed it. Raises KafkaError."""
        before = self._current
        for place, records in (await self._reader.getmany(timeout_ms=_POLL_MS)).items():
            for record in records:
                self._take(place, record)
        return None if self._current == before else self._current

    async def close(self) -> None:
        """Disconnect."""
        if self._reader is not None:
            await self._reader.stop()

    def _take(self, place: TopicPartition, record: Any) -> None:
        source = f"the record at {record.topic}/{record.partition}/{record.offset}"
        try:
            self._places[place](record.value, source)
        except ModelwardenError as error:
            _log.error("policy_refused", source=source, error=str(error))
            self._instruments.add(catalogue.POLICY_REFUSED)

    def _take_policy(self, value: bytes | None, source: str) -> None:
        signed = self._ledger.take(value, source)
        policy, mode = signed.policy, self._settings.policy_mode
        self._current = msgspec.structs.replace(
            self._current,
            policy=policy if mode is None else msgspec.structs.replace(policy, mode=mode),
            sequence=signed.sequence,
            author=signed.author,
            reason=signed.reason,
            issued_ms=signed.issued_ms,
            breaker_resets=signed.breaker_resets,
        )

    def _take_allow(self, value: bytes | None, _source: str) -> None:
        if value is not None:  # a tombstone removes what was withdrawn
            self._allowlist.take(value)
            self._current = msgspec.structs.replace(self._current, allowlist=self._allowlist.records)


def add_policy_agent(app: WorkerApp) -> None:
    """Follow the policy and allowlist topics while the worker runs."""

    @app.task
    async def follow_policy() -> None:
        while not app.should_stop:
            policy = await app.policies.next()
            if policy is not None:
                await app.adopt(policy)
