"""What must have come of the events on the topic, and what did."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

sys.path.insert(0, str(Path(__file__).parents[1] / "streams"))
from counting_worker import EVERY, read_counts

from detectors.alert import alert_id
from sinks.records import DeadLetter, Feedback

if TYPE_CHECKING:
    from worker_deployment import Deployment

    from streams.bus.base import Message


@dataclass
class Truth:
    """Counts by key, ids of alerts (and of commands), places of dead letters, that the events call for."""

    counts: Counter[str] = field(default_factory=Counter)
    alerts: set[str] = field(default_factory=set)
    letters: set[tuple[int, int]] = field(default_factory=set)
    events: int = 0

    def add(self, message: Message) -> None:
        """Take one event, of each partition in order."""
        self.events += 1
        if not (message.value or b"").isdigit():
            self.letters.add((message.partition, message.offset))
            return
        key = (message.key or b"").decode()
        self.counts[key] += 1
        if self.counts[key] % EVERY == 0:
            self.alerts.add(alert_id(message.topic, message.partition, message.offset, "counted"))


def read_truth(deployment: Deployment) -> Truth:
    """Work it out from the topics."""
    truth = Truth()
    for message in deployment.read("events"):
        truth.add(message)
    for message in deployment.read("feedback"):
        record = msgspec.json.decode(message.value or b"", type=Feedback)
        truth.counts[f"feedback {record.author}"] += 1
    return truth


def compare(deployment: Deployment, truth: Truth) -> tuple[list[str], int]:
    """Return what is wrong, one line each, and how many outputs stand twice under one id (harmless)."""
    wrong = []
    stored: Counter[str] = sum(
        (read_counts(parts) for _, parts in deployment.snapshots().values()), Counter()
    )
    keys = [key for key in truth.counts | stored if truth.counts[key] != stored[key]]
    if keys:
        error = stored.total() - truth.counts.total()
        wrong.append(f"{len(keys)} of {len(truth.counts)} keys wrong, {error:+d} in all, first {keys[0]}")
    doubled = 0
    for topic in ("alerts", "commands"):
        ids = deployment.ids(topic)
        doubled += len(ids) - len(set(ids))
        wrong += _differences(topic, truth.alerts, set(ids))
    letters = [msgspec.json.decode(m.value or b"", type=DeadLetter) for m in deployment.read("dead-letter")]
    places = {(letter.partition, letter.offset) for letter in letters}
    doubled += len(letters) - len(places)
    return wrong + _differences("dead letters", truth.letters, places), doubled


def _differences(what: str, wanted: set[Any], found: set[Any]) -> list[str]:
    lost, invented = len(wanted - found), len(found - wanted)
    return [f"{what}: {lost} lost, {invented} that no event calls for"] if lost or invented else []
