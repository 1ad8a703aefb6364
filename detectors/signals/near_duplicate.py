"""Whether a query is a near copy of the key's earlier queries, in their order, or a small step around one.

The idea of stateful defences (Chen, Carlini, Wagner 2019; SEAT, AISec 2021; Blacklight, USENIX Security 2022)
in bounded memory: the last 256 sketches of a key, 12 coordinates of a byte each. A sketch is a Gaussian
projection, so any of its coordinates are one too (Johnson-Lindenstrauss): 12 give distances to 20 %.

What is near is measured against the key's own step, the mean distance between successive queries. Video
frames, test-time augmentation and blurred cameras are close to their predecessors, so they are not near by
that measure; augmentation of a shuffled seed set is. Exact repeats (retries, pollers) are not near copies.

Order needs no distance at all. If the queries' nearest earlier ones lie in the ring in the order of the
queries, the key walks through its own history: every round of an augmentation and of a batched search does,
diluted or not. Where honest keys' nearest ones lie says nothing about the next, so the p-value of so small a
gap holds for every key (recurrence analysis counts the same diagonals: Marwan et al., Physics Reports 2007).

Gradient estimates (finite differences, HopSkipJump, NES) take small steps of equal length around a centre:
successive differences of such points have equal lengths and an angle of 120 degrees.

Blind to: copies further back than 256 queries; copies in shuffled order that move as far as ordinary traffic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from detectors.kernelcache import njit
from detectors.lines import TABLE_SIZE, is_between, is_middle
from detectors.pages import ENTRY_BYTES, LENGTHS, next_page, place_of, size_of
from detectors.prefetch import CACHE_LINE_BYTES, prefetch, slot_ahead
from detectors.ringsearch import QUANTA_PER_PAIR, RING_LENGTH, RING_SIZE, is_any_within, nearest_entry
from detectors.slabs import PAGE, PAGE_COUNT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detectors.alert import Family
    from detectors.base import Array, Events, Fields, Slabs
    from detectors.reference import EventReference

NEAR_RATIO = 0.3
"""Near: closer than this share of the key's own step. Measured on benign keys: clean image keys reach 0.45
at the median, Jacobian augmentation 0.2 (`modelwarden evaluate`)."""
NEAR_LAG = 8
"""A copy of one of the last 8 queries is a run (frames, retries, what-if), not augmentation."""
FLIP_DISTANCE = 0.5
"""In median pair distances: a neighbour this close is the same thing to a person, so another label is odd."""
MIDPOINT_DISTANCE = 0.2
"""In median pair distances: closer ends are frames or noise, whose middles mean nothing."""
MIDPOINT_RATIO = 0.3
"""The far end must lie this close, in distances to the near end, to where a middle puts it: quantisation
alone gives 0.1."""
LINE_DISTANCE = 0.1
"""In median pair distances: of shorter steps rounding hides the direction."""
LINE_REACH = 0.5
"""In median pair distances from the centre: the middle of two unrelated queries lies that far from it at the
mean, so about half of the middles lie within, and few honest queries do, which saves the search for lines for
the others. Without a limit, `modelwarden evaluate` notices the digits' line search one query earlier."""
STEP_HORIZON = 64
ECHO_PLACES = 3
"""Last queries whose nearest ones a query may follow: among half ordinary traffic, seven in eight do."""
PROBE_DISTANCE = 0.5
"""In median pair distances: steps as long as between unrelated queries are of equal length by chance."""
PROBE_RATIO = 2.7
"""Squared steps that differ by less are equal: of twelve coordinates, nine in ten equal steps are."""
PROBE_COSINE = (-0.9, -0.1)
"""Cosine of successive differences around a centre: -0.5, give or take what twelve coordinates allow."""
PROBE_BENIGN, PROBE_ATTACK = 0.5, 0.8
"""Share of probes that honest keys stay below, even with video or samples around a record; an attack's."""
PROBE_LARGEST = 30.0
PROBE_FLOOR = 6
"""Squared steps, in quanta, below which quantisation hides lengths and angles: both count as equal."""

_PAGES_AHEAD = 3
"""Rows ahead for which pages are loaded, of up to 3 KiB each."""
_LOADED = 64
"""Slots, by their last bits, whose pages were loaded lately: a busy key's is near still."""

_LOG10 = np.log10(np.maximum(np.arange(ECHO_PLACES * RING_LENGTH + 1), 1))
"""Of whole numbers, for a row takes its time to compute one."""
_PROBE_GAIN = np.log10(PROBE_ATTACK / PROBE_BENIGN)
_PROBE_LOSS = np.log10((1 - PROBE_ATTACK) / (1 - PROBE_BENIGN))


class NearDuplicate:
    """Compare with the key's last 256 queries.

    Scores
    ------
    near_copy : 1 if the nearest earlier query is near, and not one of the last eight.
    label_flip : 1 if the nearest earlier query is close, and was given another class.
    echo : -log10 p of how shortly the nearest earlier query comes after those of the last three queries,
        uniform under honest use; NaN if it is one of the last eight.
    midpoint : 1 if the query lies halfway between two earlier ones, as every step of a bisection does, or
        anywhere on a line between its nearest and another of a different class (`detectors.lines`).
    probe : log10 of the evidence that more than `PROBE_BENIGN` of the last queries are probes: small steps,
        equally long, at the angle of points around one centre (CUSUM of Page, Biometrika 1954).
    novelty : distance to the nearest remembered query in median pair distances; 1 for the first query.

    All but the last are NaN for an exact repeat: it says nothing about copies. A query is one if codes and
    four bits of a hash of the whole sketch agree, so of steps below a quantum one in sixteen is lost.
    """

    name: ClassVar[str] = "near_duplicate"
    family: ClassVar[Family] = "near_duplicate"
    counts_all: ClassVar[bool] = False
    scores: ClassVar[tuple[str, ...]] = (
        *("near_copy", "label_flip", "echo", "midpoint", "probe"),
        "novelty",
    )
    fields: ClassVar[Fields] = {
        PAGE: ("u4", ()),
        PAGE_COUNT: ("u4", ()),
        "step_mean": ("f4", ()),
        "last_places": ("u1", (ECHO_PLACES,)),
        "probe_evidence": ("f4", ()),
    }

    def __init__(self, reference: EventReference) -> None:
        """Quantise around this reference's ring centre, in units of its median pair distance."""
        self._centre = reference.ring_centre
        pair_distance = float(reference.pair_distance[0])
        coordinate = pair_distance / np.sqrt(reference.input_centres.shape[1])
        self._quantum = np.float32(coordinate / QUANTA_PER_PAIR)
        self._reach = np.float32(LINE_REACH * pair_distance)

    @property
    def kernel(self) -> Any:
        """Score rows (`score_near_duplicates`)."""
        return score_near_duplicates

    def arguments(self, events: Events, slots: NDArray[np.int64], slabs: Slabs) -> tuple[Any, ...]:
        """Return the sketches, how they are quantised, and the slabs and pages of their keys."""
        state = [slabs[name] for name in self.fields]
        quantised = self._centre, self._quantum, self._reach
        columns = events.rows, events.sketch, events.words, events.predicted
        return *columns, slots, *quantised, *state, *slabs.pages.arrays


@njit(cache=True, nogil=True)
def score_near_duplicates(
    out: Array, rows: Array, sketch: Array, words: Array, predicted: Array, slots: Array,
    centre: Array, quantum: float, reach: float,
    ring_page: Array, ring_count: Array, step_mean: Array, last_places: Array, probe_evidence: Array,
    memory: Array, start: Array, free: Array, head: Array,
) -> None:  # fmt: skip
    """Score each row, then remember it; NaN where the sketch is absent."""
    unit = np.float32(1.0 / (QUANTA_PER_PAIR * np.sqrt(RING_SIZE)))
    squared, short = np.empty(RING_LENGTH, np.int32), np.empty(RING_LENGTH, np.uint16)
    cells, table, room = (
        np.empty((3, RING_LENGTH), np.uint16),
        np.empty(TABLE_SIZE, np.uint8),
        np.empty(RING_LENGTH, np.int16),
    )
    code, opposite = np.empty(RING_SIZE, np.int16), np.empty(RING_SIZE, np.int16)
    loaded = np.full(_LOADED, -1)
    for i in range(len(slots)):
        prefetch(ring_count, slot_ahead(slots, i))
        ahead = slots[min(i + _PAGES_AHEAD, len(slots) - 1)]
        if loaded[ahead % _LOADED] != ahead:
            loaded[ahead % _LOADED] = ahead
            _fetch_page(ahead, ring_page, ring_count, memory, start)
        row, slot = rows[i], slots[i]
        if not _quantise(sketch[row], centre, quantum, code):
            continue
        tag = _tag(words[row], predicted[row])
        count = np.int64(ring_count[slot])
        position = count % RING_LENGTH
        out[i, :5], out[i, 5] = 0.0, 1.0
        if count > 0:
            size = size_of(count)
            length = LENGTHS[size]
            page = place_of(np.int64(ring_page[slot]), size, start)
            filled = min(count, RING_LENGTH)
            step = _squared_step(code, memory, page + (position - 1) % RING_LENGTH, length)
            nearest, lag = nearest_entry(code, memory, page, length, filled, position, short, squared)
            where = (position - lag) % RING_LENGTH
            differs = np.uint8(memory[page + RING_SIZE * length + where]) ^ tag
            out[i, 5] = np.sqrt(np.float32(nearest)) * unit
            if nearest == 0 and differs & 15 == 0:
                out[i, :5] = np.nan
            else:
                usual = min(step_mean[slot], np.float32(1.2))
                out[i, 0] = lag > NEAR_LAG and count > 1 and out[i, 5] < NEAR_RATIO * usual
                out[i, 1] = out[i, 5] < FLIP_DISTANCE and differs >> 4 != 0
                out[i, 2] = _echo(where, last_places[slot], position) if lag > NEAR_LAG else np.nan
                for k in range(ECHO_PLACES - 1, 0, -1):
                    last_places[slot, k] = last_places[slot, k - 1]
                last_places[slot, 0] = where
                if out[i, 5] > MIDPOINT_DISTANCE:
                    out[i, 3] = _is_midpoint(
                        code, nearest, where, opposite, memory, page, length, filled, cells[0], squared
                    )
                if out[i, 3] == 0 and out[i, 5] > LINE_DISTANCE and _is_within(sketch[row], centre, reach):
                    out[i, 3] = is_between(
                        code, memory, page, length, filled, where, short, room
                    ) or is_middle(code, memory, page, length, filled, cells, table)
                if count > 1:
                    probes = _is_probe(code, memory, page, length, position, step)
                    change = _PROBE_GAIN if probes else _PROBE_LOSS
                    probe_evidence[slot] = min(max(probe_evidence[slot] + change, 0.0), PROBE_LARGEST)
                out[i, 4] = probe_evidence[slot]
            away = np.sqrt(np.float32(step)) * unit - step_mean[slot]
            step_mean[slot] += away / np.float32(min(int(count), STEP_HORIZON))
        _remember(code, tag, slot, count, ring_page, memory, start, free, head)
        ring_count[slot] = count + 1


@njit(cache=True, nogil=True, inline="always")
def _fetch_page(slot: int, ring_page: Array, ring_count: Array, memory: Array, start: Array) -> None:
    """Begin to load what is filled of a slot's page."""
    count = int(ring_count[slot])
    if count > 0:
        size = size_of(count)
        length = LENGTHS[size]
        first = place_of(np.int64(ring_page[slot]), size, start)
        if length <= CACHE_LINE_BYTES:
            for place in range(first, first + length * ENTRY_BYTES, CACHE_LINE_BYTES):
                prefetch(memory, place)
        else:
            for row in range(first, first + length * ENTRY_BYTES, length):
                for place in range(row, row + min(count, length), CACHE_LINE_BYTES):
                    prefetch(memory, place)


@njit(cache=True, nogil=True, inline="always")
def _remember(
    code: Array, tag: int, slot: int, count: int,
    ring_page: Array, memory: Array, start: Array, free: Array, head: Array,
) -> None:  # fmt: skip
    """Put an entry after `count` others, in place of the oldest if all 256 are there."""
    size = size_of(count + 1)
    if count == 0 or size != size_of(count):
        ring_page[slot] = next_page(np.int64(ring_page[slot]), count, memory, start, free, head)
    length = LENGTHS[size]
    entry = place_of(np.int64(ring_page[slot]), size, start) + count % RING_LENGTH
    for j in range(RING_SIZE):
        memory[entry + j * length] = code[j]
    memory[entry + RING_SIZE * length] = np.int8(tag)


@njit(cache=True, nogil=True, inline="always")
def _tag(words: Array, predicted: int) -> Any:
    """Return what is remembered beside a code: the class in the upper four bits, a hash in the lower."""
    total, negative_zero = np.uint32(0), np.uint32(0x80000000)
    for j in range(len(words)):  # -0.0 and 0.0 are one
        total = np.uint32(total + (np.uint32(0) if words[j] == negative_zero else words[j]))
    mixed = np.uint32(total * np.uint32(0x9E3779B1)) >> np.uint32(28)
    return np.uint8(((predicted & 15) << 4) | mixed)


@njit(cache=True, nogil=True)
def _echo(place: int, last_places: Array, position: int) -> float:
    """Return -log10 p of the smallest gap from one of the last places on, by the union bound.

    Places are taken to be uniform between the farthest of them and now: a sweep sorted by class stays near.
    """
    gap, reach = RING_LENGTH, (position - place - 1) % RING_LENGTH + 1
    for last in last_places:
        reach = max(reach, (position - last - 1) % RING_LENGTH + 1)
        if place != last:
            gap = min(gap, (place - last) % RING_LENGTH)
    return float(max(_LOG10[reach] - _LOG10[ECHO_PLACES * gap], 0.0))


@njit(cache=True, nogil=True, inline="always")
def _is_midpoint(
    code: Array, nearest: int, where: int, opposite: Array,
    memory: Array, page: int, length: int, filled: int, short: Array, squared: Array,
) -> bool:  # fmt: skip
    """Tell whether what lies opposite to the nearest entry, which is at `where`, is remembered too."""
    for j in range(RING_SIZE):
        opposite[j] = 2 * code[j] - memory[page + j * length + where]
    limit = MIDPOINT_RATIO**2 * nearest
    return bool(is_any_within(opposite, memory, page, length, filled, limit, short, squared))


@njit(cache=True, nogil=True, inline="always")
def _is_within(sketch: Array, centre: Array, reach: float) -> bool:
    """Tell whether the whole sketch, whose length is a multiple of four, lies that close to the centre."""
    zero = np.float32(0)
    a, b, c, d = zero, zero, zero, zero  # four sums, for each would wait for the one before
    for j in range(0, len(sketch), 4):
        a += (sketch[j] - centre[j]) ** 2
        b += (sketch[j + 1] - centre[j + 1]) ** 2
        c += (sketch[j + 2] - centre[j + 2]) ** 2
        d += (sketch[j + 3] - centre[j + 3]) ** 2
    return bool(a + b + c + d < reach * reach)


@njit(cache=True, nogil=True, inline="always")
def _squared_step(code: Array, memory: Array, previous: int, length: int) -> Any:
    """Return the squared distance to the previous query."""
    total = 0
    for j in range(RING_SIZE):
        difference = int(code[j]) - int(memory[previous + j * length])
        total += difference * difference
    return total


@njit(cache=True, nogil=True)
def _is_probe(code: Array, memory: Array, page: int, length: int, position: int, step: int) -> bool:
    """Tell whether the last two steps are small, equal, and at the angle of points around a centre.

    `step` is the last one's square.
    """
    longest = (PROBE_DISTANCE * QUANTA_PER_PAIR) ** 2 * RING_SIZE
    if step > longest:
        return False
    before_that, product = 0, 0
    last, before = page + (position - 1) % RING_LENGTH, page + (position - 2) % RING_LENGTH
    for j in range(RING_SIZE):
        middle = int(memory[last + j * length])
        old = middle - int(memory[before + j * length])
        before_that, product = before_that + old * old, product + old * (int(code[j]) - middle)
    longer, shorter = max(before_that, step), min(before_that, step)
    if longer > longest:
        return False
    if longer <= PROBE_FLOOR:
        return True
    low, high = PROBE_COSINE
    cosine = product / np.sqrt(max(before_that * step, 1))
    return longer < PROBE_RATIO * shorter and low < cosine < high


@njit(cache=True, nogil=True, inline="always")
def _quantise(sketch: Array, centre: Array, quantum: float, code: Array) -> bool:
    """Write the code of a sketch, -127 to 127; False if it is absent."""
    bad = np.float32(0)
    for j in range(RING_SIZE):
        scaled = (sketch[j] - centre[j]) / quantum
        bad += scaled - scaled  # 0 if finite, else NaN
        code[j] = np.int16(np.rint(min(max(scaled, np.float32(-127)), np.float32(127))))
    return bool(bad == 0)
