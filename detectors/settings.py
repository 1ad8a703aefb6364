"""What an operator may set of the engine."""

from __future__ import annotations

import msgspec

from detectors.attention import ATTENTIVE_QUERIES


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of one engine. Names carry units."""

    hot_keys: int = 100_000
    """Keys kept in full per engine; the least recently seen are evicted to a cold summary."""
    cold_keys: int = 1_000_000
    """Cold summaries kept per engine."""
    attentive_queries: int = ATTENTIVE_QUERIES
    """First queries of a key, which are all looked at. Of later ones half are, in blocks of 32 that its owner
    cannot know; all are counted."""
    promoted_keys: int = 256
    """Suspect keys that River's detectors look at too, per engine; about 5 kB each."""
    false_discovery_ratio: float = 0.1
    """Share of the alerts called discoveries that may be false."""
    campaign_keys: int = 16_384
    """Keys summarised per model to find campaigns among them; about 300 B each."""
