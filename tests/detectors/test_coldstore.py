from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from detectors.arrays import pack_arrays, unpack_arrays
from detectors.coldstore import COLD_LIMIT_BYTES, ColdStore
from detectors.keytable import memory_estimate_bytes

if TYPE_CHECKING:
    from detectors.base import Array

SUMMARY = np.dtype([("count", "<u4"), ("value", "<f4", (3,))])


def entities(numbers: list[int]) -> Array:
    return np.array([[n, n, 0] for n in numbers], np.uint64).reshape(-1, 3)


def summaries(numbers: list[int]) -> Array:
    rows = np.zeros(len(numbers), SUMMARY)
    rows["count"] = numbers
    rows["value"][:, 1] = numbers
    return rows


def put(store: ColdStore, numbers: list[int], *, seen_ms: int = 0) -> None:
    store.put(entities(numbers), np.full(len(numbers), seen_ms, np.int64), summaries(numbers))


def test_a_summary_comes_back_as_it_was_and_strangers_are_unknown() -> None:
    store = ColdStore(100, SUMMARY)
    put(store, [3, 1, 4])
    rows, known = store.recall(entities([4, 5, 3]))
    assert known.tolist() == [True, False, True]
    assert np.array_equal(rows[known], summaries([4, 3]))
    assert rows["count"][1] == 0


def test_a_later_summary_replaces_the_earlier() -> None:
    store = ColdStore(100, SUMMARY)
    put(store, [1, 2])
    store.put(entities([1]), np.zeros(1, np.int64), summaries([9]))
    assert store.recall(entities([1, 2]))[0]["count"].tolist() == [9, 2]
    assert len(store) == 2


def test_the_longest_unseen_is_dropped_even_by_one_large_put() -> None:
    store = ColdStore(4, SUMMARY)
    put(store, [1, 2], seen_ms=10)
    put(store, [3, 4], seen_ms=5)
    put(store, [5, 6], seen_ms=20)
    assert store.recall(entities([1, 2, 3, 4, 5, 6]))[1].tolist() == [True, True, False, False, True, True]
    put(store, list(range(10, 20)), seen_ms=30)
    assert len(store) == 4
    assert store.dropped == 12
    assert store.recall(entities(list(range(16, 20))))[1].all()


@pytest.mark.parametrize("numbers", [[], [1, 2, 3]])
def test_a_store_survives_the_state_format(numbers: list[int]) -> None:
    store = ColdStore(100, SUMMARY)
    put(store, numbers)
    arrays, _ = unpack_arrays(pack_arrays("cold", 1, store.dump()), "cold", 1)
    other = ColdStore(100, SUMMARY)
    put(other, [50])
    other.restore(arrays)
    assert len(other) == len(numbers)
    rows, known = other.recall(entities([*numbers, 50]))
    assert np.array_equal(rows[known], summaries(numbers))
    put(other, [60, 61])
    assert other.recall(entities([60, *numbers]))[1].all()


def test_a_dump_of_another_layout_is_refused() -> None:
    store = ColdStore(100, np.dtype("<u8"))
    with pytest.raises(ValueError, match="another layout"):
        store.restore(ColdStore(100, SUMMARY).dump() | {"rows": np.zeros((0, 5), np.uint8)})


def test_a_key_never_takes_more_than_the_limit() -> None:
    for capacity in (2**k + 1 for k in range(10, 20)):
        spare = COLD_LIMIT_BYTES - memory_estimate_bytes(capacity, 0) / capacity
        ColdStore(capacity, np.dtype(f"V{int(spare) // 2}"))
    with pytest.raises(ValueError, match="above the limit"):
        ColdStore(100, np.dtype(f"V{COLD_LIMIT_BYTES}"))
