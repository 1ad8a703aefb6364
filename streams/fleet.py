"""The keys behind the findings: how each stood at the end, how the found ones came there, and all as a fleet.

A run's folder keeps them beside its alerts: `keys.jsonl` (the most suspect keys), `fleet.jsonl` (all keys of
each model, counted) and `history.jsonl` (the found keys, step by step).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from heapq import nlargest
from math import log10
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from detectors.falsediscovery import e_bh, lifetime_e_value_log10
from detectors.keysummary import KeySummary
from streams.findings import decode_records, read_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from detectors.engine import Engine
    from sinks.files import FileSink
    from streams.bus.base import Message

KEPT_KEYS = 10_000
"""Keys kept in full, the most suspect; all are counted in the fleet."""
EVIDENCE_STEP = 0.25
"""Width of the fleet's bins, in -log10 of the share of honest keys this odd."""
EVIDENCE_BINS = 24
"""The last holds everything beyond."""
DISCOVERY_RATIO = 0.1
WATCHED_KEYS = 60
"""Keys whose history is kept: the first found, in order of level."""
EVERY_QUERY = 16
GROWTH = 1.08
"""A key's history has a point for each of its first queries, then whenever they grew by this factor."""
_REFERENCE = re.compile(rb"k\d{1,5}-[0-9a-f]{32}")


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """All keys of a model, counted by how odd they are."""

    model: str
    keys: int
    evidence_counts: tuple[int, ...]
    """By bins of `EVIDENCE_STEP` from 0."""
    discoveries: int = 0
    """Keys of whom, all keys looked at together, at most `DISCOVERY_RATIO` are honest (e-BH)."""


class HistoryPoint(msgspec.Struct, frozen=True, array_like=True):
    """Where a key stood after an event."""

    time_ms: int
    query_count: int
    evidence: float
    """-log10 of the share of honest keys expected to look this odd in their lifetime; its largest so far."""
    held_queries: float


class KeyHistory(msgspec.Struct, frozen=True, kw_only=True):
    """How a key came to where it is."""

    key: str
    model: str
    points: tuple[HistoryPoint, ...]


class KeyStates(msgspec.Struct, frozen=True, kw_only=True):
    """Everything known of keys at the end of a run."""

    keys: tuple[KeySummary, ...] = ()
    """The most suspect, most suspect first."""
    fleet: tuple[Fleet, ...] = ()
    """By model, ascending."""
    history: tuple[KeyHistory, ...] = ()
    span_ms: int = 0
    """From the first event to the last, of the keys in the state."""

    def write(self, sink: FileSink) -> None:
        """Write everything into a run's folder."""
        sink.write("keys", self.keys)
        sink.write("fleet", self.fleet)
        sink.write("history", self.history)


def evidence_of(p_value: float) -> float:
    """Return -log10 of a p-value, never below 0."""
    return max(-log10(max(p_value, 1e-300)), 0.0)


def survey(engines: Iterable[Engine], historian: Historian | None = None) -> KeyStates:
    """Sum up the keys of some engines, and what a historian noted."""
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    e_values: dict[str, list[float]] = defaultdict(list)
    first_ms, last_ms = 2**63, 0

    def counted() -> Iterator[KeySummary]:
        nonlocal first_ms, last_ms
        for engine in engines:
            for summary in engine.summaries():
                first_ms = min(first_ms, summary.first_time_ms)
                last_ms = max(last_ms, summary.last_time_ms)
                bin_ = int(evidence_of(summary.key_p_value) / EVIDENCE_STEP)
                counts[summary.model][min(bin_, EVIDENCE_BINS - 1)] += 1
                e_values[summary.model].append(lifetime_e_value_log10(summary.key_p_value))
                yield summary

    kept = nlargest(KEPT_KEYS, counted(), key=lambda s: (-s.key_p_value, s.query_count, s.key))
    fleet = tuple(
        Fleet(
            model=model,
            keys=count.total(),
            evidence_counts=tuple(count[index] for index in range(EVIDENCE_BINS)),
            discoveries=int(e_bh(np.array(e_values[model]), DISCOVERY_RATIO).sum()),
        )
        for model, count in sorted(counts.items())
    )
    history = () if historian is None else historian.history()
    span_ms = max(last_ms - first_ms, 0)
    return KeyStates(keys=tuple(kept), fleet=fleet, history=history, span_ms=span_ms)


class Historian:
    """Follows some keys through a replay: cuts the traffic at their events and notes how they stand.

    Parameters
    ----------
    watched : iterable of (key, model)
    """

    def __init__(self, watched: Iterable[tuple[str, str]]) -> None:
        self._points: dict[tuple[str, str], list[HistoryPoint]] = {place: [] for place in watched}
        self._models: dict[bytes, list[str]] = defaultdict(list)
        for key, model in self._points:
            self._models[key.encode()].append(model)
        self._seen: Counter[bytes] = Counter()
        self._due: dict[bytes, int] = dict.fromkeys(self._models, 1)

    def cut(self, messages: Sequence[Message]) -> Iterator[tuple[Sequence[Message], str | None]]:
        """Yield the messages in pieces; with each the key whose next point is due after it, if one is."""
        start = 0
        for index, message in enumerate(messages, 1):
            match = _REFERENCE.search(message.key or b"") or _REFERENCE.search(message.value or b"")
            key = match[0] if match else b""
            if key in self._due:
                self._seen[key] += 1
                if self._seen[key] >= self._due[key]:
                    seen = self._seen[key]
                    self._due[key] = seen + 1 if seen < EVERY_QUERY else int(seen * GROWTH) + 1
                    yield messages[start:index], key.decode()
                    start = index
        if start < len(messages):
            yield messages[start:], None

    def note(self, engine: Engine, key: str | None) -> None:
        """Note how a key stands now."""
        for model in self._models[key.encode()] if key else ():
            summary = engine.summary(key or "", model)
            points = self._points[key or "", model]
            if summary is not None and (not points or points[-1].query_count < summary.query_count):
                points.append(
                    HistoryPoint(
                        summary.last_time_ms,
                        summary.query_count,
                        round(evidence_of(summary.key_p_value), 4),
                        round(max(summary.held_queries, 0.0), 2),
                    )
                )

    def history(self) -> tuple[KeyHistory, ...]:
        """Return what was noted, in the order in which the keys were given."""
        return tuple(
            KeyHistory(key=key, model=model, points=tuple(points))
            for (key, model), points in self._points.items()
            if points
        )


def read_states(folder: Path) -> KeyStates:
    """Read what a run's folder says of its keys; empty parts for files that are not there.

    Raises
    ------
    FindingsError
        If a line is not a record.
    """
    return KeyStates(
        keys=tuple(decode_records(KeySummary, read_file(folder / "keys.jsonl"))),
        fleet=tuple(decode_records(Fleet, read_file(folder / "fleet.jsonl"))),
        history=tuple(decode_records(KeyHistory, read_file(folder / "history.jsonl"))),
    )
