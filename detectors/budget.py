"""The extraction budget: how much a key holds of what a copy of the model needs.

Copying with ordinary inputs cannot be told from use by looking at the inputs, so this is no accusation: it is
an account. A key holds as many queries as were distinct, discounted by the worst of three ratios to ordinary
traffic: cells of the input space reached (against as many random queries to this model), balance of the
answers and distance between inputs (against its median benign key). What a copy needs was measured: `CURVES`
are copies trained on ordinary queries (Knockoff nets with inputs of the model's own kind).

A budget alert is a notice at most, and for a person or a contract to judge. Where more than one honest key in
ten ever holds what a copy needs, only a key that holds more than they do is told of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from detectors.alert import Extraction
from detectors.kernelcache import njit
from detectors.reference import ExtractionReference
from detectors.signals.coverage import CELLS, Coverage, cell_numbers, planes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detectors.base import Array, Fields, Slabs
    from detectors.reference import EventReference

NEEDED_QUERIES = 2000
"""Distinct, ordinary queries that a copy needs: copies of the measured models then agreed with them on 93 %
and 96 % of the inputs, and twice as many queries gained 1 to 4 points more."""
ALERT_RATIO = 0.9
"""Share of the needed queries at which a key is told of."""
ORDINARY_RATIO = 0.1
"""Share of honest keys that may hold more; the alert waits for the others."""

CURVES: tuple[tuple[tuple[int, float], ...], ...] = (
    ((100, 0.765), (250, 0.840), (500, 0.900), (1000, 0.906), (2000, 0.930), (4000, 0.967)),  # digits, CNN
    ((100, 0.928), (250, 0.941), (500, 0.945), (1000, 0.952), (2000, 0.962), (4000, 0.971)),  # income, MLP
)
"""Agreement of a copy with its model on ordinary inputs, by queries it was trained on."""

FRESH_RATIO = 0.5
"""A key's inputs may lie this much closer together than those of the median benign key before it counts."""
LEAST_LABEL_NATS = 0.05
"""With less entropy in its answers a model gives no labels, and the curves say nothing about it."""
HOUR_MS = 3_600_000.0
MINUTE_MS = 60_000
"""A pace is not read from less time than this."""
LEAST_FRESH = 0.05
"""Smallest mean weight of a query that is believed of the median benign key."""
LEAST_EVENTS = 8
"""Queries that a key needs to count among those that say what is usual."""
_KNOTS_AN_OCTAVE = 4
_OCTAVES = 24

SPREAD_FIELDS: Fields = {"fresh": ("f4", (2,))}
"""Sum of the weights of a key's queries (near copies count less), and their number."""
BUDGET_FIELDS: Fields = {"first_ms": ("i8", ()), "held": ("f4", ()), "told": ("u1", ())}
"""When the key was first seen, which the engine sets; queries held, as of the last event; whether the key was
told of."""

SPREAD_COLUMNS = len(Coverage.scores) + 2
PARTS = ("held", "distinct", "coverage", "labels", "fresh")
"""What is known of a key after an event: queries held, distinct queries, and the three ratios to ordinary
traffic."""


class Crossed(NamedTuple):
    """A row at which a key first holds what is told of."""

    row: int
    extraction: Extraction


@njit(cache=True, nogil=True)
def follow_spread(
    out: Array, coverage: Array, rows: Array, weight: Array, slots: Array, fresh: Array
) -> None:  # fmt: skip
    """Add each row to its key's account, the slab `fresh`.

    `out` (n, SPREAD_COLUMNS) gets the scores of `detectors.signals.coverage` (n, 3) and the key's account
    after the row, NaN where the event has no sketch. `weight` (m,) is known of the `rows` (m,) that were
    looked at, ascending; the others weigh as much as those of their key did on average.
    """
    looked = 0
    for i in range(len(slots)):
        slot = slots[i]
        is_known = looked < len(rows) and rows[looked] == i
        own = weight[looked] if is_known else fresh[slot, 0] / max(fresh[slot, 1], np.float32(1))
        looked += int(is_known)
        out[i, :3] = coverage[i]
        out[i, 3:] = np.nan
        if not np.isnan(out[i, 0]):
            fresh[slot, 0] += own
            fresh[slot, 1] += 1
            out[i, 3:] = fresh[slot]


class Budget:
    """Accounts of the keys of one model.

    Parameters
    ----------
    reference
        What ordinary traffic of the model spreads over.
    """

    def __init__(self, reference: ExtractionReference) -> None:
        self._reference = reference
        self._size = np.array([reference.label_nats[0], FRESH_RATIO * reference.fresh[0]])
        self.threshold = np.float32(max(ALERT_RATIO * NEEDED_QUERIES, _ordinary(reference.held)))

    def parts(self, spread: NDArray[np.float32]) -> NDArray[np.float32]:
        """Account for each row of `follow_spread`: float32 (n, len(PARTS)), NaN where nothing is known."""
        out = np.empty((len(spread), len(PARTS)), np.float32)
        _account(spread, self._reference.cells, self._size, out)
        return out

    def process(
        self,
        spread: NDArray[np.float32],
        time_ms: NDArray[np.int64],
        slots: NDArray[np.int64],
        slabs: Slabs,
    ) -> Account:
        """Keep what each key holds after each row."""
        parts, crossed = self.parts(spread), np.empty(len(slots), np.uint8)
        _cross(parts, slots, self.threshold, slabs["held"], slabs["told"], crossed)
        return Account(self._reference, parts, crossed, time_ms, slots, slabs["first_ms"])


class Account(NamedTuple):
    """What the keys of some rows hold, as of each row."""

    reference: ExtractionReference
    parts: NDArray[np.float32]
    is_crossed: NDArray[np.uint8]
    time_ms: NDArray[np.int64]
    slots: NDArray[np.int64]
    first_ms: NDArray[np.int64]
    """Of the key's first query, by slot."""

    def crossed(self) -> list[Crossed]:
        """Return the rows at which a key first reached the threshold, ascending."""
        rows = self.is_crossed.nonzero()[0].tolist()
        return [Crossed(row, extraction) for row in rows if (extraction := self.describe(row))]

    def describe(self, row: int) -> Extraction | None:
        """Say what the key of a row holds; None where nothing is known of that."""
        held, distinct, *ratios = (float(part) for part in self.parts[row])
        if np.isnan(held):
            return None
        low, high = copy_agreement(held)
        elapsed_ms = max(int(self.time_ms[row] - self.first_ms[self.slots[row]]), MINUTE_MS)
        more = int((self.reference.held >= self.parts[row, 0]).sum())
        return Extraction(
            held_ratio=held / NEEDED_QUERIES,
            held_queries=held,
            needed_queries=NEEDED_QUERIES,
            distinct_queries=distinct,
            coverage_ratio=ratios[0],
            label_ratio=ratios[1],
            fresh_ratio=ratios[2],
            copy_agreement_low=low,
            copy_agreement_high=high,
            held_per_hour=held * HOUR_MS / elapsed_ms,
            honest_share=(more + 1) / (len(self.reference.held) + 1),
        )


def copy_agreement(held: float) -> tuple[float, float]:
    """Return the least and the most that measured copies agreed with their models after so many queries."""
    found = []
    for curve in CURVES:
        queries, agreement = zip(*curve, strict=True)
        found.append(float(np.interp(np.log(max(held, 1.0)), np.log(queries), agreement)))
    return min(found), max(found)


def _ordinary(held: NDArray[np.float32]) -> float:
    """Return what all but `ORDINARY_RATIO` of the benign keys stay below; 0 without any."""
    return float(np.quantile(held, 1 - ORDINARY_RATIO)) if len(held) else 0.0


@njit(cache=True, nogil=True)
def _account(spread: Array, cells: Array, size: Array, out: Array) -> None:
    for i in range(len(spread)):
        out[i] = np.nan
        visited, repeats, nats = spread[i, 0], spread[i, 1], spread[i, 2]
        weight, events = spread[i, 3], spread[i, 4]
        if np.isnan(visited) or np.isnan(nats) or size[0] < LEAST_LABEL_NATS:
            continue
        distinct = events / repeats
        place = min(np.log2(distinct) * _KNOTS_AN_OCTAVE, len(cells) - 1.000001)
        knot = int(place)
        expected = cells[knot] + (place - knot) * (cells[knot + 1] - cells[knot])
        coverage = min(visited / expected, 1.0)
        labels = min(nats / size[0], 1.0)
        fresh = min(weight / events / size[1], 1.0)
        out[i, 0] = distinct * min(coverage, labels, fresh)
        out[i, 1], out[i, 2], out[i, 3], out[i, 4] = distinct, coverage, labels, fresh


@njit(cache=True, nogil=True)
def _cross(parts: Array, slots: Array, threshold: float, kept: Array, told: Array, out: Array) -> None:
    for i in range(len(slots)):
        out[i] = 0
        if not np.isnan(parts[i, 0]):
            kept[slots[i]] = parts[i, 0]
            if parts[i, 0] >= threshold and not told[slots[i]]:
                told[slots[i]] = out[i] = 1


def fit_extraction(
    event: EventReference,
    sketch: NDArray[np.float32],
    label_nats: NDArray[Any],
    fresh: NDArray[np.float32],
    held: NDArray[np.float32],
) -> ExtractionReference:
    """Learn what ordinary traffic spreads over.

    Parameters
    ----------
    event
        The model's event level.
    sketch : float32 (m, 32)
        Input sketches of events sampled from all benign keys alike.
    label_nats : (K,)
        Entropy of each benign key's classes.
    fresh : float32 (K, 2)
        The slab of that name, of the same keys.
    held : float32 (K,)
        The most that each of them held; empty if not known.
    """
    seen = sketch[np.isfinite(sketch).all(axis=1)]
    mass = np.bincount(cell_numbers(seen, planes(event)), minlength=CELLS) / max(len(seen), 1)
    queries = 2.0 ** (np.arange(_OCTAVES * _KNOTS_AN_OCTAVE + 1) / _KNOTS_AN_OCTAVE)
    cells = (1 - (1 - mass) ** queries[:, None]).sum(axis=1)
    old = fresh[:, 1] >= LEAST_EVENTS
    ratio = fresh[old, 0] / fresh[old, 1]
    nats = np.nan_to_num(label_nats[old])
    return ExtractionReference(
        cells=np.maximum(cells, 1).astype(np.float32),
        label_nats=np.array([np.median(nats) if old.any() else 0.0], np.float32),
        fresh=np.array([max(np.median(ratio), LEAST_FRESH) if old.any() else 1.0], np.float32),
        held=np.sort(held[np.isfinite(held)]).astype(np.float32),
    )
