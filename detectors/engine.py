"""The engine: batches of events in, alerts out; all per-key state lives here.

One engine per source partition. Pure: the same batches in the same order give the same alerts and the same
`dump`, however they are cut into batches. Not thread-safe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from detectors.alert import Alert
    from detectors.batch import EventBatch

STATE_VERSION = 1


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator may set. Names carry units."""

    hot_keys: int = 100_000
    """Keys kept in full per engine; the least recently seen are evicted to a cold summary."""


class KeySummary(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one key now, for `modelwarden key show` and `key explain`."""

    key: str
    model: str
    query_count: int
    first_time_ms: int
    last_time_ms: int
    level: str | None
    key_p_value: float
    families: dict[str, float]
    features: dict[str, float]


class StateError(Exception):
    """A state blob cannot be restored: wrong version or damaged. The message says what to do."""


class Engine:
    """Per-key detection over one stream of batches."""

    def __init__(self, settings: EngineSettings, references: dict[str, Any]) -> None:
        """Start empty. `references` by model name; a model without one learns from its own traffic."""

    def process(self, batch: EventBatch) -> list[Alert]:
        """Score the batch, update every key in it, return new alerts in order of their events."""
        raise NotImplementedError

    def forgive(self, key: str, model: str | None) -> None:
        """Take back a key's level and suppress the same finding (feedback: honest)."""
        raise NotImplementedError

    def summary(self, key: str, model: str) -> KeySummary | None:
        """Return what is known of a key, or None."""
        raise NotImplementedError

    def summaries(self) -> Iterator[KeySummary]:
        """Yield every hot key, most suspect first."""
        raise NotImplementedError

    def dump(self) -> bytes:
        """Return the whole state as bytes, self-describing and versioned."""
        raise NotImplementedError

    def restore(self, blob: bytes) -> None:
        """Replace the state by a dump. Raises StateError."""
        raise NotImplementedError
