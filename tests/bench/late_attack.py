"""What attention costs: how much later an attack by an old, honest key is found (`detectors.attention`).

python tests/bench/late_attack.py TRACES [KEYS]

Honest MNIST keys with an odd number, each with some hundred queries of its own, turn into each attack in
turn. The reference is learned from those with an even number. Told is after how many queries of the attack,
its ordinary seeds among them, the key is noticed: median and largest over the keys, with all queries looked
at, and with half of them from the key's 256th on. Keys that were noticed before are left out.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from compare_detectors import ATTACKS
from rich.console import Console
from rich.table import Table

from detectors.batch import concatenate
from detectors.calibration import fit_reference
from detectors.engine import Engine, EngineSettings
from streams.traces import read_trace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from detectors.batch import EventBatch
    from detectors.reference import ModelReference

OLD_QUERIES = 256
NEVER_OLD = 2**31
LEAST_HISTORY, MOST_HISTORY = 600, 1000


def joined(history: EventBatch, attack: EventBatch) -> EventBatch:
    """Let the key of a history go on as an attack, an hour later."""
    count = len(attack)
    attack = replace(
        attack,
        key=np.repeat(history.key[:1], count, axis=0),
        key_epoch=np.repeat(history.key_epoch[:1], count),
        time_ms=attack.time_ms - attack.time_ms[0] + history.time_ms[-1] + 3_600_000,
        offset=np.arange(count) + len(history),
        models=history.models,
    )
    return concatenate([history, attack])


def delay(reference: ModelReference, history: EventBatch, attack: EventBatch, queries: int) -> float | None:
    """Return after how many of its queries an attack is noticed; None if the key was before it."""
    engine = Engine(EngineSettings(attentive_queries=queries), {reference.model: reference})
    before = [alert for alert in engine.process(history) if alert.subject == "key"]
    if before:
        return None
    late = joined(history, attack).take(slice(len(history), None))
    alerts = [a for a in engine.process(late) if a.subject == "key" and a.families != ("budget",)]
    return float(alerts[0].query_count - len(history)) if alerts else np.inf


def told(delays: Sequence[float | None]) -> list[str]:
    """Return the median and the largest delay."""
    known = [one for one in delays if one is not None]
    return ["never" if np.isinf(one) else f"{one:.0f}" for one in (np.median(known), max(known))]


def main(folder: Path, keys: int) -> None:
    """Print the table."""
    files = sorted(folder.glob("mnist__benign__s*.npz"))
    benign = [trace for file in files for trace in read_trace(file) if trace.kind == "benign"]
    reference = fit_reference("mnist", [t.batch() for t in benign if t.number % 2 == 0])
    old = [t for t in benign if t.number % 2 and len(t) >= LEAST_HISTORY][:keys]
    ends = np.random.default_rng(0).integers(LEAST_HISTORY, MOST_HISTORY, len(old))
    histories = [t.take(slice(0, int(end))).batch() for t, end in zip(old, ends, strict=True)]
    table = Table(title=f"Queries of an attack until its key is noticed, {len(old)} honest keys turned")
    for column in ("attack", "all: median", "largest", "old key: median", "largest"):
        table.add_column(column, justify="left" if column == "attack" else "right")
    for name in ATTACKS:
        attack = next(t for t in read_trace(next(folder.glob(f"mnist__{name}__s*.npz")))).batch()
        figures = [
            told([delay(reference, history, attack, queries) for history in histories])
            for queries in (NEVER_OLD, OLD_QUERIES)
        ]
        table.add_row(name, *figures[0], *figures[1])
    Console().print(table)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 20)
