"""Make the sample traffic and the shipped references from a folder of traces.

    python -m streams.samples.build TRACES_DIR

Only odd-numbered benign keys are shipped as traffic; the references are made of all even-numbered ones, so
that what a first run shows was not fitted to it. Keys are chosen by number and length alone, never by what a
detector says of them. Deterministic.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from detectors.calibration import fit_reference
from detectors.learner import BORROWED_KEYS
from detectors.lesson import thin
from streams.samples import REFERENCE_SUFFIX, TRAFFIC_FILE, pack
from streams.traces import KeyTrace, read_folder

if TYPE_CHECKING:
    from detectors.reference import ModelReference

ATTACKS = (
    ("mnist", "uniform"),
    ("mnist", "knockoff_rand_kmnist"),
    ("mnist", "jbda"),
    ("mnist", "trnd_ifgsm"),
    ("mnist", "tramer_ls"),
    ("mnist", "tramer_nat"),
    ("mnist", "square"),
    ("adult", "jbda"),
    ("adult", "tramer_online"),
    ("adult", "uniform"),
)
"""Victim and name. Left out: attacks that query with images whose licence is unclear."""

ATTACK_QUERIES = 900
"""First so many queries of each attack."""

USUAL_LENGTH = 400
RARE_LENGTH = 1600
RARE_KEYS = 7
"""Personas with at most so many odd keys are shipped whole, up to the longer length."""


def choose(traces: list[KeyTrace]) -> list[KeyTrace]:
    """Choose what is shipped: benign keys numbered 3 modulo 4, all of rare personas, and the attacks."""
    odd = [trace for trace in traces if trace.kind == "benign" and trace.number % 2 == 1]
    keys_of = Counter((trace.victim, trace.persona) for trace in odd)
    benign = [
        trace
        for trace in odd
        if (trace.number % 4 == 3 and len(trace) <= USUAL_LENGTH)
        or (keys_of[trace.victim, trace.persona] <= RARE_KEYS and len(trace) <= RARE_LENGTH)
    ]
    by_name = {(trace.victim, trace.attack): trace for trace in traces if trace.kind == "attack"}
    return benign + [by_name[name].take(slice(ATTACK_QUERIES)) for name in ATTACKS]


def build(folder: Path, target: Path) -> dict[str, int]:
    """Write traffic and references into `target`; return the size of each file in bytes."""
    traces = read_folder(folder)
    chosen = choose(traces)
    blobs = {TRAFFIC_FILE: pack(chosen)}
    for victim in sorted({trace.victim for trace in chosen}):
        reference = [
            trace.batch()
            for trace in traces
            if trace.kind == "benign" and trace.victim == victim and trace.number % 2 == 0
        ]
        blobs[victim + REFERENCE_SUFFIX] = _to_borrow(fit_reference(victim, reference)).dump()
    for name, blob in blobs.items():
        (target / name).write_bytes(blob)
    return {name: len(blob) for name, blob in blobs.items()}


def _to_borrow(reference: ModelReference) -> ModelReference:
    """Keep what other models borrow of the lesson, and not its events: nobody merges a shipped reference."""
    lesson = reference.lesson
    return reference if lesson is None else replace(reference, lesson=thin(lesson, 0, BORROWED_KEYS))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m streams.samples.build TRACES_DIR")
    for name, size in build(Path(sys.argv[1]), Path(__file__).parent).items():
        sys.stdout.write(f"{name}: {size:,} bytes\n")
