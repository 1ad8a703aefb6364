"""The flagged keys of a worker's partitions, read from the topics on which alerts and people's words stand.

Reading what was written, rather than counting what is made, shows the same after a restart or a rebalance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from aiokafka import TopicPartition

from detectors.alert import Alert
from sinks.records import Feedback
from streams.recovery import open_reader

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sinks.metrics.flagged import FlaggedKeys
    from streams.clock import Clock
    from streams.settings import Settings

_POLL_MS = 500
_log = structlog.get_logger(__name__)


class FlagFeed:
    """Keeps `FlaggedKeys` true to the alerts and feedback topics.

    Parameters
    ----------
    settings : Settings
    flagged : FlaggedKeys
    clock : Clock
        Tells which flags are over.
    """

    def __init__(self, settings: Settings, flagged: FlaggedKeys, clock: Clock) -> None:
        self._settings = settings
        self._flagged = flagged
        self._clock = clock
        self._alerts, self._feedback = settings.topic("alerts"), settings.topic("feedback")
        self._positions: dict[TopicPartition, int] = {}
        self._reader: Any = None

    async def poll(self, partitions: Iterable[int]) -> None:
        """Read what is new on these partitions, for up to half a second. Raises KafkaError."""
        if self._reader is None:
            self._reader = open_reader(self._settings.kafka, security=self._settings.kafka_security)
            await self._reader.start()
        await self._follow(set(partitions))
        self._flagged.expire(self._clock.now_ms())
        if not self._positions:
            return
        for place, records in (await self._reader.getmany(timeout_ms=_POLL_MS)).items():
            for record in records:
                self._take(record)
            self._positions[place] = records[-1].offset + 1

    async def close(self) -> None:
        """Disconnect."""
        if self._reader is not None:
            await self._reader.stop()

    async def _follow(self, partitions: set[int]) -> None:
        """Read these partitions, the new ones from where their oldest flag could begin."""
        known = {place.partition for place in self._positions}
        if partitions == known:
            return
        self._flagged.give_up(known - partitions)
        new = [
            TopicPartition(topic, p) for topic in (self._alerts, self._feedback) for p in partitions - known
        ]
        since_ms = self._clock.now_ms() - int(1000 * self._settings.metrics.flagged_for_s)
        found = await self._reader.offsets_for_times(dict.fromkeys(new, since_ms)) if new else {}
        ends = await self._reader.end_offsets(new) if new else {}
        kept = {place: at for place, at in self._positions.items() if place.partition in partitions}
        self._positions = kept | {
            place: ends[place] if found[place] is None else found[place].offset for place in new
        }
        self._reader.assign(list(self._positions))
        for place, offset in self._positions.items():
            self._reader.seek(place, offset)

    def _take(self, record: Any) -> None:
        try:
            if record.topic == self._alerts:
                alert = msgspec.json.decode(record.value, type=Alert)
                self._flagged.flag(alert, partition=record.partition, time_ms=record.timestamp)
            else:
                word = msgspec.json.decode(record.value, type=Feedback)
                if word.verdict == "honest":
                    self._flagged.forgive(word.key, word.model)
        except (msgspec.MsgspecError, TypeError):  # refused elsewhere, with its reason
            _log.debug("not_shown", topic=record.topic, partition=record.partition, offset=record.offset)
