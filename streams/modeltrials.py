"""Trials of the alarm for a model as a whole: attacks among honest traffic, at a fixed share of it.

From a moment on, the keys of one attack file make `ATTACK_SHARE` of a model's next queries, taking turns; the
rest is what the measured benign keys send anyway. Asked is after how many queries in all the model's alarm
sounds, and how many of the keys that it names are the attack's. Alarms without an attack are counted over the
same benign traffic.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from streams.report import BUDGETS, ModelTrial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from detectors.alert import Alert
    from streams.traces import KeyTrace

ATTACK_SHARE = 0.25
ONSETS = (0.2, 0.4, 0.6, 0.8)
"""Where in the benign traffic the attack begins."""
LEAST_KEYS = 4
"""Attacks of fewer keys are no matter for the model's alarm: keys have their own."""
QUERIES = 4000
"""Most queries from the onset on that are judged."""


def model_trials(
    benign: Sequence[KeyTrace],
    attack: Sequence[KeyTrace],
    run: Callable[[Sequence[KeyTrace]], Sequence[Alert]],
) -> Iterator[ModelTrial]:
    """Yield one trial an onset and budget; `run` returns the alerts of a new engine over the keys."""
    arrivals = np.sort(np.concatenate([trace.time_ms for trace in benign]))
    for onset in ONSETS:
        first = int(onset * len(arrivals))
        hostile = _insert(attack, arrivals[first : first + int(QUERIES * (1 - ATTACK_SHARE))])
        alerts = [alert for alert in run([*benign, *hostile]) if alert.subject == "model"]
        for budget, levels in BUDGETS.items():
            judged = (a for a in alerts if a.level in levels and first < a.offset <= first + QUERIES)
            yield _trial(next(judged, None), hostile, onset, budget, first)


def _insert(attack: Sequence[KeyTrace], arrivals: np.ndarray) -> list[KeyTrace]:
    """Give the attack's keys, in turns, evenly spread times between the arrivals of honest queries."""
    count = min(int(len(arrivals) * ATTACK_SHARE / (1 - ATTACK_SHARE)), sum(map(len, attack)))
    places = np.linspace(0, len(arrivals) - 1, int(len(arrivals) * ATTACK_SHARE / (1 - ATTACK_SHARE)))[:count]
    times = np.interp(places, np.arange(len(arrivals)), arrivals).astype(np.int64)
    turns = [times[number :: len(attack)][: len(trace)] for number, trace in enumerate(attack)]
    return [
        replace(trace.take(slice(len(mine))), time_ms=mine)
        for trace, mine in zip(attack, turns, strict=True)
        if len(mine)
    ]


def _trial(
    alert: Alert | None, hostile: Sequence[KeyTrace], onset: float, budget: str, first: int
) -> ModelTrial:
    guilty = {trace.key_reference for trace in hostile}
    return ModelTrial(
        source=hostile[0].source,
        victim=hostile[0].victim,
        attack=hostile[0].attack,
        onset=onset,
        budget=budget,
        keys=len(hostile),
        queries_to_alarm=None if alert is None else alert.offset - first,
        keys_named=0 if alert is None else len(alert.members),
        attack_keys_named=0 if alert is None else len(guilty.intersection(alert.members)),
    )
