"""Which queries of a key are looked at, and which are only counted.

Most traffic comes from a few keys that have asked thousands of things and were found honest. The first
`attentive_queries` of a key are all looked at. After that one is of every two blocks of 32 queries, drawn
from the key's reference: an HMAC under the deployment's secret, so nobody outside knows which.

In blocks, because order, steps and near copies show only in queries that follow each other. What is not
looked at still counts for the key's rate, its extraction budget, and campaigns.

The price: an attack by a key that was honest for so long is found after up to three times as many queries
(`python tests/bench/late_attack.py TRACES`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from detectors.batch import SYNTHETIC_EPOCH
from detectors.kernelcache import njit
from detectors.words import GOLDEN, mix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detectors.base import Array
    from detectors.modelrows import ModelRows

ATTENTIVE_QUERIES = 8192
"""First queries of a key, which are all looked at: several times as many as a copy of a model takes
(`detectors.budget.CURVES`)."""
BLOCK_QUERIES = 32


class Part(NamedTuple):
    """What is looked at of a model's rows, m of n.

    Attributes
    ----------
    places : int64 (m,)
        Which of the n, ascending.
    rows, slots, time_ms : int64 (m,)
        Their rows in the batch, the slots of their keys, and their times.
    """

    places: NDArray[np.int64]
    rows: NDArray[np.int64]
    slots: NDArray[np.int64]
    time_ms: NDArray[np.int64]


def whole(piece: ModelRows) -> Part:
    """Look at all rows."""
    return Part(np.arange(len(piece.rows)), piece.rows, piece.slots, piece.time_ms)


def attend(piece: ModelRows, attentive_queries: int) -> Part:
    """Choose the rows to look at. The canary's are all."""
    batch, places = piece.batch, np.empty(len(piece.rows), np.int64)
    count = _choose(batch.key, batch.key_epoch, piece.rows, piece.number, attentive_queries, places)
    if count == len(places):
        return Part(places, piece.rows, piece.slots, piece.time_ms)
    places = places[:count]
    return Part(places, piece.rows[places], piece.slots[places], piece.time_ms[places])


@njit(cache=True, nogil=True)
def _choose(
    key: Array, epoch: Array, rows: Array, number: Array, attentive_queries: int, places: Array
) -> int:
    count = 0
    for i in range(len(rows)):
        past = number[i] - 1 - attentive_queries
        if past >= 0 and epoch[rows[i]] != SYNTHETIC_EPOCH:
            block = past // BLOCK_QUERIES
            drawn = mix(np.uint64(key[rows[i], 0]) + np.uint64(block // 2 + 1) * GOLDEN) >> np.uint64(63)
            if np.uint64(block % 2) != drawn:
                continue
        places[count] = i
        count += 1
    return count
