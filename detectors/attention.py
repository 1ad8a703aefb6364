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
    from detectors.batch import EventBatch

ATTENTIVE_QUERIES = 8192
"""First queries of a key, which are all looked at: several times as many as a copy of a model takes
(`detectors.budget.CURVES`)."""
BLOCK_QUERIES = 32


class Part(NamedTuple):
    """Rows of a batch that are looked at, m of n.

    Attributes
    ----------
    rows : int64 (m,), ascending
    batch : EventBatch
        Of those rows.
    slots : int64 (m,)
    """

    rows: NDArray[np.int64]
    batch: EventBatch
    slots: NDArray[np.int64]


def whole(batch: EventBatch, slots: NDArray[np.int64]) -> Part:
    """Look at all rows."""
    return Part(np.arange(len(slots)), batch, slots)


def attend(
    batch: EventBatch, slots: NDArray[np.int64], number: NDArray[np.int64], attentive_queries: int
) -> Part:
    """Choose the rows to look at; `number` (n,) counts each key's queries, from one. The canary's are all."""
    rows = np.empty(len(slots), np.int64)
    count = _choose(batch.key, batch.key_epoch, number, attentive_queries, rows)
    if count == len(slots):
        return Part(rows, batch, slots)
    rows = rows[:count]
    return Part(rows, batch.take(rows), slots[rows])


@njit(cache=True, nogil=True)
def _choose(key: Array, epoch: Array, number: Array, attentive_queries: int, rows: Array) -> int:
    count = 0
    for i in range(len(number)):
        past = number[i] - 1 - attentive_queries
        if past >= 0 and epoch[i] != SYNTHETIC_EPOCH:
            block = past // BLOCK_QUERIES
            drawn = mix(np.uint64(key[i, 0]) + np.uint64(block // 2 + 1) * GOLDEN) >> np.uint64(63)
            if np.uint64(block % 2) != drawn:
                continue
        rows[count] = i
        count += 1
    return count
