"""Whether a query is a near copy of one of the key's earlier queries, and answered otherwise.

The idea of stateful defences (Chen, Carlini, Wagner 2019; SEAT, AISec 2021; Blacklight, USENIX Security 2022)
in bounded memory: the last 256 sketches of a key, 12 coordinates of a byte each. A sketch is a Gaussian
projection, so any of its coordinates are one too (Johnson-Lindenstrauss): 12 give distances to 20 %.

What is near is measured against the key's own step, the mean distance between successive queries. Video
frames, test-time augmentation and blurred cameras are close to their predecessors, so they are not near by
that measure; augmentation of a shuffled seed set is. Exact repeats (retries, pollers) are not near copies.

Blind to: copies further back than 256 queries; attacks that move as far as ordinary traffic does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numba import njit

from detectors.pages import LENGTHS, next_page, place_of, size_of
from detectors.slabs import PAGE, PAGE_COUNT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detectors.alert import Family
    from detectors.base import Array, Fields, Slabs
    from detectors.batch import EventBatch
    from detectors.reference import EventReference

RING_LENGTH = LENGTHS[-1]
RING_SIZE = 12
QUANTA_PER_PAIR = 24.0
"""Quantisation: one typical coordinate difference between two random queries is 24 steps of a byte."""
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
STEP_HORIZON = 64

_SHORT_ROOT = 73
_SHORT_LIMIT = _SHORT_ROOT**2
"""Squared distances below this are counted in 16 bits."""
_STRIDE = 6
"""Coordinates compared at once."""


class NearDuplicate:
    """Compare with the key's last 256 queries.

    Scores
    ------
    near_copy : 1 if the nearest earlier query is near, and not one of the last eight.
    label_flip : 1 if the nearest earlier query is close, and was given another class.
    echo : 1 if the nearest earlier query lies exactly as far back as it did for the query before, and not
        within the last eight: the key walks through its own history in step, as every round of an
        augmentation or of a batched search does. Needs no distance scale, so it sees large steps too.
    midpoint : 1 if the query lies halfway between two earlier ones, as every step of a bisection does.
    novelty : distance to the nearest remembered query in median pair distances; 1 for the first query.

    All but the last are NaN for an exact repeat: it says nothing about copies.
    """

    name: ClassVar[str] = "near_duplicate"
    family: ClassVar[Family] = "near_duplicate"
    scores: ClassVar[tuple[str, ...]] = (
        *("near_copy", "label_flip", "echo", "midpoint"),
        "novelty",
    )
    fields: ClassVar[Fields] = {
        PAGE: ("u4", ()),
        PAGE_COUNT: ("u4", ()),
        "step_mean": ("f4", ()),
        "last_lag": ("u2", ()),
    }

    def __init__(self, reference: EventReference) -> None:
        """Quantise around this reference's ring centre, in units of its median pair distance."""
        self._centre = reference.ring_centre[:RING_SIZE]
        coordinate = float(reference.pair_distance[0]) / np.sqrt(reference.input_centres.shape[1])
        self._quantum = np.float32(coordinate / QUANTA_PER_PAIR)

    def score(self, batch: EventBatch, slots: NDArray[np.int64], slabs: Slabs) -> NDArray[np.float32]:
        """Score each row, then remember it: float32 (n, 5); NaN where the sketch is absent."""
        out = np.full((len(batch), len(self.scores)), np.nan, np.float32)
        _score(
            batch.input_sketch, self._centre, self._quantum, batch.predicted_class, slots,
            *(slabs[name] for name in self.fields), *slabs.pages.arrays, out,
        )  # fmt: skip
        return out


@njit(cache=True, nogil=True)
def _score(
    sketch: Array, centre: Array, quantum: float, predicted: Array, slots: Array,
    ring_page: Array, ring_count: Array, step_mean: Array, last_lag: Array,
    memory: Array, start: Array, free: Array, head: Array, out: Array,
) -> None:  # fmt: skip
    unit = np.float32(1.0 / (QUANTA_PER_PAIR * np.sqrt(RING_SIZE)))
    squared, short = np.empty(RING_LENGTH, np.int32), np.empty(RING_LENGTH, np.uint16)
    code, opposite = np.empty(RING_SIZE, np.int16), np.empty(RING_SIZE, np.int16)
    for i in range(len(slots)):
        if not _quantise(sketch[i], centre, quantum, code):
            continue
        slot = slots[i]
        label = np.uint8(predicted[i] & 0xFF)
        count = np.int64(ring_count[slot])
        position = count % RING_LENGTH
        out[i, :4], out[i, 4] = 0.0, 1.0
        if count > 0:
            size = size_of(count)
            length = LENGTHS[size]
            page = place_of(np.int64(ring_page[slot]), size, start)
            filled = min(count, RING_LENGTH)
            nearest, lag = _nearest(code, memory, page, length, filled, position, short, squared)
            where = (position - lag) % RING_LENGTH
            out[i, 4] = np.sqrt(np.float32(nearest)) * unit
            if nearest == 0:
                out[i, :4] = np.nan
            else:
                step = min(step_mean[slot], np.float32(1.2))
                out[i, 0] = lag > NEAR_LAG and count > 1 and out[i, 4] < NEAR_RATIO * step
                other = np.uint8(memory[page + RING_SIZE * length + where]) != label
                out[i, 1] = out[i, 4] < FLIP_DISTANCE and other
                out[i, 2] = lag > NEAR_LAG and lag == last_lag[slot]
                last_lag[slot] = lag
                if out[i, 4] > MIDPOINT_DISTANCE:
                    for j in range(RING_SIZE):  # the point opposite to the nearest
                        opposite[j] = 2 * code[j] - memory[page + j * length + where]
                    limit = MIDPOINT_RATIO**2 * nearest
                    out[i, 3] = _is_any_within(opposite, memory, page, length, filled, limit, short, squared)
            previous = page + (position - 1) % RING_LENGTH
            _learn_step(code, memory, previous, length, count, slot, step_mean, unit)
        size = size_of(count + 1)
        if count == 0 or size != size_of(count):
            number = np.int64(ring_page[slot])
            ring_page[slot] = next_page(number, count, memory, start, free, head)
        ring_count[slot] = count + 1
        length = LENGTHS[size]
        entry = place_of(np.int64(ring_page[slot]), size, start) + position
        for j in range(RING_SIZE):
            memory[entry + j * length] = code[j]
        memory[entry + RING_SIZE * length] = np.int8(label)


@njit(cache=True, nogil=True, inline="always")
def _quantise(sketch: Array, centre: Array, quantum: float, code: Array) -> bool:
    """Write the code of a sketch, -127 to 127; False if it is absent."""
    bad = np.float32(0)
    for j in range(RING_SIZE):
        scaled = (sketch[j] - centre[j]) / quantum
        bad += scaled - scaled  # 0 if finite, else NaN
        code[j] = np.int16(np.rint(min(max(scaled, np.float32(-127)), np.float32(127))))
    return bool(bad == 0)


@njit(cache=True, nogil=True, inline="always")
def _nearest(
    code: Array,
    memory: Array,
    page: int,
    length: int,
    filled: int,
    position: int,
    short: Array,
    squared: Array,
) -> tuple[int, int]:
    """Return the nearest entry's squared distance and its lag; of equally near ones the latest."""
    for j in range(0, RING_SIZE, _STRIDE):
        _add_short(code, memory, page, length, filled, j, short)
    nearest = int(_least_short(short, filled))
    if nearest < _SHORT_LIMIT:
        return nearest, _latest(short, filled, position, np.uint16(nearest)) + 1
    _distances(code, memory, page, length, filled, squared)
    for place in range(filled):  # the lag, less one, takes the last eight bits
        squared[place] = np.int32(squared[place] * RING_LENGTH + ((position - 1 - place) % RING_LENGTH))
    best = int(_least(squared, filled))
    return best // RING_LENGTH, best % RING_LENGTH + 1


@njit(cache=True, nogil=True)
def _latest(short: Array, filled: int, position: int, nearest: Any) -> int:
    """Return how far back, less one, the latest entry of that distance lies."""
    none = np.uint16(RING_LENGTH)
    back, least = np.uint16(position - 1), none
    for place in range(filled):
        lag = np.uint16(np.uint16(back - np.uint16(place)) & np.uint16(RING_LENGTH - 1))
        least = min(least, lag if short[place] == nearest else none)
    return int(least)


@njit(cache=True, nogil=True, inline="always")
def _is_any_within(
    code: Array,
    memory: Array,
    page: int,
    length: int,
    filled: int,
    limit: float,
    short: Array,
    squared: Array,
) -> bool:
    """Tell whether an entry's squared distance is less than the limit."""
    if limit > _SHORT_LIMIT:
        _distances(code, memory, page, length, filled, squared)
        return bool(_least(squared, filled) < limit)
    for j in range(0, RING_SIZE, _STRIDE):
        _add_short(code, memory, page, length, filled, j, short)
        if _least_short(short, filled) >= limit:
            return False
    return True


@njit(cache=True, nogil=True, inline="always")
def _short_square(a: int, b: int) -> Any:
    """Return a squared difference of coordinates, cut off at `_SHORT_LIMIT`."""
    apart = np.int16(a - b)
    apart = np.int16(min(np.int16(abs(apart)), np.int16(_SHORT_ROOT)))
    return np.uint16(apart * apart)


@njit(cache=True, nogil=True)
def _add_short(code: Array, memory: Array, page: int, length: int, filled: int, j: int, out: Array) -> None:
    """Add the cut-off squares of `_STRIDE` coordinates from `j` on; from 0 on, begin with them.

    In 16 bits twice as many are counted side by side as in 32. A sum below `_SHORT_LIMIT` has no cut-off
    part, and sums of all twelve fit 16 bits.
    """
    c0, c1, c2 = code[j], code[j + 1], code[j + 2]
    c3, c4, c5 = code[j + 3], code[j + 4], code[j + 5]
    kept = np.uint16(0xFFFF if j > 0 else 0)
    step = np.uint64(length)
    r0 = np.uint64(page + j * length)  # unsigned: numba would look for negative indices otherwise
    r1, r2, r3, r4, r5 = (
        r0 + step,
        r0 + step + step,
        r0 + step * np.uint64(3),
        r0 + step * np.uint64(4),
        r0 + step * np.uint64(5),
    )
    for i in range(np.uint64(filled)):
        first = np.uint16(_short_square(c0, memory[r0 + i]) + _short_square(c1, memory[r1 + i]))
        second = np.uint16(_short_square(c2, memory[r2 + i]) + _short_square(c3, memory[r3 + i]))
        third = np.uint16(_short_square(c4, memory[r4 + i]) + _short_square(c5, memory[r5 + i]))
        out[i] = np.uint16(np.uint16(out[i] & kept) + np.uint16(np.uint16(first + second) + third))


@njit(cache=True, nogil=True)
def _least_short(values: Array, count: int) -> Any:
    """Return the smallest of the first values, uint16."""
    least = np.uint16(0xFFFF)
    for place in range(count):
        least = min(least, values[place])
    return least


@njit(cache=True, nogil=True)
def _distances(code: Array, memory: Array, page: int, length: int, filled: int, out: Array) -> None:
    """Write the squared distances of a code to the remembered ones, int32."""
    out[:filled] = 0
    for j in range(RING_SIZE):
        c, row = np.int32(code[j]), memory[page + j * length :]
        for i in range(filled):
            apart = np.int32(c - np.int32(row[i]))
            out[i] = np.int32(out[i] + np.int32(apart * apart))


@njit(cache=True, nogil=True)
def _least(values: Array, count: int) -> Any:
    """Return the smallest of the first values, int32."""
    least = np.int32(2**31 - 1)
    for place in range(count):
        least = min(least, values[place])
    return least


@njit(cache=True, nogil=True, inline="always")
def _learn_step(
    code: Array,
    memory: Array,
    previous: int,
    length: int,
    count: int,
    slot: int,
    step_mean: Array,
    unit: float,
) -> None:
    """Follow the mean distance between successive queries."""
    total = 0
    for j in range(RING_SIZE):
        difference = int(code[j]) - int(memory[previous + j * length])
        total += difference * difference
    step = np.sqrt(np.float32(total)) * unit
    step_mean[slot] += (step - step_mean[slot]) / np.float32(min(count, STEP_HORIZON))
