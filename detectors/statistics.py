"""The statistics of a key: running means of a few values per event, over short and long horizons.

An event's scores become values that can be added up (surprises -log10 p against benign events, indicators);
a key's statistic is their mean over its last queries. Means say how much of the traffic is odd, which is what
separates an attack from an honest key with some odd inputs: the second never fills its recent queries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from detectors.kernelcache import njit
from detectors.prefetch import prefetch, slot_ahead
from detectors.search import count_below, cut_range
from detectors.signals import ALL_SIGNALS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detectors.alert import Family
    from detectors.base import Array
    from detectors.reference import EventReference

LN10 = 2.302585092994046

LEAST_BET_WEIGHT = 0.5
"""An event that counts less is not bet on: bets need events that are independent given the past."""
FULL_NOVELTY = 0.6
"""A query counts fully when it is this far (in median pair distances) from all remembered ones: frames,
retries and copies are not independent witnesses."""


class Value(NamedTuple):
    """What an event adds to its key's running means."""

    name: str
    family: Family
    sentence: str
    """What a high mean says of the key's traffic, for a person; follows "this key's"."""
    horizons: tuple[int, ...]
    """Events that each mean remembers; 1 is the latest value alone."""
    weighted: int
    """1 if repeats and near copies count less (`FULL_NOVELTY`), else 0."""
    least_spread: float = 0.05
    """Smallest standard deviation between keys that is believed."""


VALUES: tuple[Value, ...] = (
    # -log10 p of the distance from the predicted class
    Value("strange", "out_of_distribution", "inputs are unlike what this model is asked", (16, 128), 1),
    # product of the surprises of distance and margin
    Value(
        "strange_and_hard",
        "out_of_distribution",
        "inputs are odd and the model unsure of them",
        (16, 128),
        1,
    ),
    # -log10 p of one minus the margin
    Value("hard", "boundary", "answers lie close to the decision boundary", (64,), 1),
    # an unusually *small* overall distance, times hard: interpolations lie inside the data
    Value("inside_and_hard", "boundary", "inputs lie between classes, as in a line search", (32, 256), 1),
    Value("label_flip", "boundary", "inputs come in close pairs with different answers", (64,), 0),
    Value("near_copy", "near_duplicate", "inputs are small changes of its own earlier ones", (64,), 0),
    Value("echo", "regularity", "inputs follow its own earlier ones in order", (16, 96), 0, 0.02),
    Value("probe", "near_duplicate", "inputs step around a point in small equal strides", (1,), 0, 0.5),
    Value("midpoint", "regularity", "inputs lie on lines between two of its own", (16, 64), 0),
    # log10 of the queries in the last hour
    Value("rate", "rate", "queries come faster than those of honest keys", (1,), 0),
    # -ln of the share of new inputs that other keys' inputs are close to
    Value("unfamiliar", "distribution", "inputs cover what no other key asks about", (1,), 0),
    # log10 of the e-detector of biased one-token requests
    Value("logit_sweep", "parameters", "requests read logits: one prompt, biased, a token each", (1,), 0),
)


class Statistic(NamedTuple):
    """A running mean of one value over one horizon."""

    name: str
    value: Value
    horizon: int


STATISTICS: tuple[Statistic, ...] = tuple(
    Statistic(f"{value.name}_{horizon}", value, horizon) for value in VALUES for horizon in value.horizons
)

FAMILIES: tuple[Family, ...] = (
    "out_of_distribution",
    "boundary",
    "near_duplicate",
    "regularity",
    "rate",
    "distribution",
    "parameters",
)
"""Families that statistics speak for, in the order of the columns of surprises by family."""

GROUPS: tuple[tuple[Family, ...], ...] = (
    ("out_of_distribution",),
    ("boundary",),
    ("near_duplicate",),
    ("regularity",),
    ("rate",),
    ("distribution",),
    ("parameters",),
)
"""Families whose largest surprise has a lifetime tail of its own: a few honest keys that are extreme in one
group must not hide an attack that another group sees. The order of a key's queries is the extreme case: its
tail is short for every customer, while distances to a model's ordinary inputs are not."""
GROUP_SHARES = (0.25, 0.2, 0.15, 0.18, 0.02, 0.18, 0.02)
"""Part of the false-alarm budget that each group may spend (union bound). Sweeps are so far from honest
requests that little is enough for them, and a rate says little by itself. A group in which no benign key
scores leaves its part to the others."""

GROUP_OF = np.array(
    [next(g for g, group in enumerate(GROUPS) if s.value.family in group) for s in STATISTICS]
)
FAMILY_OF = np.array([FAMILIES.index(s.value.family) for s in STATISTICS])
VALUE_OF = np.array([VALUES.index(s.value) for s in STATISTICS])
HORIZONS = np.array([s.horizon for s in STATISTICS], np.float32)
WEIGHTED = np.array([s.value.weighted for s in STATISTICS], np.uint8)
WEIGHTED_VALUE = np.array([v.weighted for v in VALUES], np.uint8)


BETS = ("strange", "hard")
"""p-values per event that the e-detectors bet against."""


SCORES: tuple[str, ...] = tuple(name for signal in ALL_SIGNALS.values() for name in signal.scores)
"""Scores of all signals, in the order of the columns that `event_values` takes."""
_INPUT, _EMBEDDING, _HARDNESS, _OVERALL, _NOVELTY = (
    SCORES.index(name)
    for name in ("input_distance", "embedding_distance", "hardness", "overall_distance", "novelty")
)
_MADE = 4
"""So many of `VALUES`, the first, are made of several scores; the others are scores as they are."""
_AS_THEY_ARE = np.array([SCORES.index({"rate": "log_rate"}.get(v.name, v.name)) for v in VALUES[_MADE:]])


def event_values(
    scores: NDArray[np.float32], reference: EventReference
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Turn the signals' scores into values, weights and p-values to bet against.

    A p-value is conservative and conformal, (#{c >= s} + 1) / (k + 1): ties count against surprise.

    Parameters
    ----------
    scores : float32 (n, len(SCORES))
    reference
        Where the benign scores lie.

    Returns
    -------
    values : float32 (n, len(VALUES)), NaN where a score is absent.
    weight : float32 (n,), between 0 and 1.
    bets : float32 (n, len(BETS)), NaN where there is nothing to bet on.
    """
    count = len(scores)
    values = np.empty((count, len(VALUES)), np.float32)
    weight, bets = np.empty(count, np.float32), np.empty((count, len(BETS)), np.float32)
    write_values(values, weight, bets, scores, *value_tables(reference))
    return values, weight, bets


def value_tables(reference: EventReference) -> tuple[Array, ...]:
    """Return where the benign scores lie: sorted tables, each with the cells of its range, and surprises.

    A table's surprises, -log10 p, are by how many of its scores lie below.
    """
    tables = (
        reference.distance_table,
        reference.embedding_table,
        reference.hardness_table,
        -reference.overall_table[::-1],  # small distances are odd
    )
    return tuple(part for table in tables for part in (table, cut_range(table), _surprises(len(table))))


@njit(cache=True, nogil=True)
def _surprises(count: int) -> Array:
    """Return -log10 p where 0, 1, ... `count` of so many scores lie below, float32 (count + 1,)."""
    out = np.empty(count + 1, np.float32)
    for below in range(count + 1):
        out[below] = np.log(_p_value(below, count)) * np.float32(-1 / LN10)
    return out


@njit(cache=True, nogil=True)
def write_values(
    values: Array, weight: Array, bets: Array, scores: Array,
    input_table: Array, input_cells: Array, input_surprises: Array,
    embedding_table: Array, embedding_cells: Array, embedding_surprises: Array,
    hardness_table: Array, hardness_cells: Array, hardness_surprises: Array,
    overall_table: Array, overall_cells: Array, overall_surprises: Array,
) -> None:  # fmt: skip
    """Write what `event_values` returns."""
    below = np.empty((4, len(scores)), np.uint32)
    count_below(scores[:, _INPUT], input_table, input_cells, below[0])
    count_below(scores[:, _EMBEDDING], embedding_table, embedding_cells, below[1])
    count_below(scores[:, _HARDNESS], hardness_table, hardness_cells, below[2])
    count_below(-scores[:, _OVERALL], overall_table, overall_cells, below[3])
    for i in range(len(scores)):
        odd, surprise = _read(scores[i, _INPUT], below[0, i], input_surprises)
        if np.isnan(odd):
            odd, surprise = _read(scores[i, _EMBEDDING], below[1, i], embedding_surprises)
        close, hard = _read(scores[i, _HARDNESS], below[2, i], hardness_surprises)
        _, inside = _read(scores[i, _OVERALL], below[3, i], overall_surprises)
        values[i, 0] = surprise
        values[i, 1] = surprise * hard
        values[i, 2] = hard
        values[i, 3] = inside * hard
        for k in range(len(_AS_THEY_ARE)):
            values[i, _MADE + k] = scores[i, _AS_THEY_ARE[k]]
        novelty = scores[i, _NOVELTY]
        new = np.float32(1) if np.isnan(novelty) else novelty / np.float32(FULL_NOVELTY)
        new = min(max(new, np.float32(0)), np.float32(1))
        weight[i] = new * new
        is_bet = weight[i] >= LEAST_BET_WEIGHT
        bets[i, 0], bets[i, 1] = (odd, close) if is_bet else (np.float32(np.nan), np.float32(np.nan))


@njit(cache=True, nogil=True, inline="always")
def _read(score: float, below: int, surprises: Array) -> tuple[Any, Any]:
    """Return p and -log10 p of a score that so many of a table's lie below."""
    if np.isnan(score):
        return np.float32(np.nan), np.float32(np.nan)
    return _p_value(below, len(surprises) - 1), surprises[below]


@njit(cache=True, nogil=True)
def _p_value(below: int, count: int) -> Any:
    return np.float32(count + 1 - below) / np.float32(count + 1)


@njit(cache=True, nogil=True)
def update_means(
    values: Array, weight: Array, slots: Array,
    mean: Array, mass: Array, value_mass: Array, value_mean: Array, value_square: Array,
    value_of: Array, horizons: Array, weighted: Array, weighted_value: Array,
    out_mean: Array, out_mass: Array,
) -> None:  # fmt: skip
    """Add each event to its key's running means, in order.

    `mean` and `mass` are slabs (capacity, S): the mean and the weight it rests on, at most its horizon.
    `value_mass`, `value_mean`, `value_square` are slabs (capacity, V) over the key's whole life (West's
    weighted update, CACM 1979). `out_mean`, `out_mass` (n, S) receive the means' state after each row. A NaN
    value, or one of weight 0, leaves everything as it was.
    """
    one = np.float32(1.0)
    for i in range(len(slots)):
        slot = slots[i]
        prefetch(mean, slot_ahead(slots, i))
        prefetch(mass, slot_ahead(slots, i))
        prefetch(value_mass, slot_ahead(slots, i))
        prefetch(value_mean, slot_ahead(slots, i))
        prefetch(value_square, slot_ahead(slots, i))
        for v in range(len(weighted_value)):
            share = weight[i] if weighted_value[v] else one
            if share > 0 and not np.isnan(values[i, v]):
                value_mass[slot, v] += share
                apart = values[i, v] - value_mean[slot, v]
                value_mean[slot, v] += apart * share / value_mass[slot, v]
                value_square[slot, v] += share * apart * (values[i, v] - value_mean[slot, v])
        for s in range(len(horizons)):
            value = values[i, value_of[s]]
            share = weight[i] if weighted[s] else one
            if share > 0 and not np.isnan(value):
                mass[slot, s] = min(mass[slot, s] + share, horizons[s])
                mean[slot, s] += (value - mean[slot, s]) * share / mass[slot, s]
            out_mean[i, s] = mean[slot, s]
            out_mass[i, s] = mass[slot, s]
