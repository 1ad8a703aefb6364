"""Several keys taken as one: their running means pooled, and compared with honest keys as one key's are."""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np

from detectors.keylevel import standardise
from detectors.statistics import HORIZONS
from detectors.watch import read_tails

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detectors.batch import EventBatch
    from detectors.reference import KeyReference


def owner_ids(batch: EventBatch, rows: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return a number for each row's tenant (a CRC-32, the same in every batch); -1 where it has none."""
    ids = np.array([*(crc32(name.encode()) & 0x7FFFFFFF for name in batch.tenants), -1], np.int32)
    owners: NDArray[np.int32] = ids[batch.tenant[rows]]
    return owners


def z_values(mean: NDArray[np.float32], mass: NDArray[np.float32], key: KeyReference) -> NDArray[np.float32]:
    """Standardise running means (n, S) between honest keys; -inf where too little was seen."""
    z = np.empty(mean.shape, np.float32)
    standardise(mean, mass, HORIZONS, key.mean, key.within_variance, key.between_variance, z)
    return z


def pool(
    mean: NDArray[np.float32], mass: NDArray[np.float32], member_of: NDArray[np.int64], owners: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Pool the running means (k, S) of keys by owner, weighted by mass: means and masses (owners, S).

    A pooled mass is at most the statistic's horizon, as one key's is, so that the keys' tails hold for it.
    """
    weight = np.zeros((owners, mean.shape[1]))
    total = np.zeros((owners, mean.shape[1]))
    np.add.at(weight, member_of, mass)
    np.add.at(total, member_of, mean * mass)
    pooled = total / np.maximum(weight, 1e-9)
    return pooled.astype(np.float32), np.minimum(weight, HORIZONS).astype(np.float32)


def judge(mean: NDArray[np.float32], mass: NDArray[np.float32], key: KeyReference) -> NDArray[np.float32]:
    """Return the surprise, -ln p, of pooled means (n, S) as if each row were one key: float32 (n,)."""
    return read_tails(z_values(mean, mass, key), key).overall
