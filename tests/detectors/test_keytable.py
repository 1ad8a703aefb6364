"""The key table against a plain dict."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from detectors.keytable import KeyTable, memory_estimate_bytes, pack_entities, unpack_entity

if TYPE_CHECKING:
    from detectors.base import Array
    from detectors.keytable import Lookup

Event = tuple[int, int]
"""Number of a key, and its event time."""

events = st.lists(st.tuples(st.integers(0, 11), st.integers(-50, 50)), max_size=40)


def entities(numbers: Array) -> Array:
    """Give each number its own entity; neighbours differ in one part only."""
    numbers = np.asarray(numbers, np.int64)
    key = np.stack([numbers // 8, numbers // 4 % 2], axis=1).astype(np.uint64)
    return pack_entities(key, (numbers // 2 % 2).astype(np.uint16), (numbers % 2).astype(np.int32))


def look_up(table: KeyTable, batch: list[Event]) -> Lookup:
    numbers, times = np.array(batch, np.int64).reshape(-1, 2).T
    return table.lookup_entities(entities(numbers), times)


class AgainstDict(RuleBasedStateMachine):
    """A full table of at most 32 slots evicts exactly the least recently seen outside the batch."""

    @initialize(capacity=st.integers(1, 9))
    def start(self, capacity: int) -> None:
        self.table = KeyTable(capacity)
        self.slot_of: dict[int, int] = {}
        self.last_ms: dict[int, int] = {}
        self.evictions = 0

    @rule(batch=events)
    def process(self, batch: list[Event]) -> None:
        numbers = [number for number, _ in batch]
        if len(set(numbers)) > self.table.capacity:
            before = self.table.dump()
            with pytest.raises(ValueError, match="raise hot_keys"):
                look_up(self.table, batch)
            assert all(np.array_equal(before[name], array) for name, array in self.table.dump().items())
            return
        for number, time_ms in batch:
            if number in self.slot_of:
                self.last_ms[number] = max(self.last_ms[number], time_ms)
        fresh, evicted = self.expect(batch)
        found = look_up(self.table, batch)
        assert found.slots.tolist() == [self.slot_of[number] for number in numbers]
        assert found.fresh.tolist() == [self.slot_of[number] for number in fresh]
        assert found.fresh_rows.tolist() == [numbers.index(number) for number in fresh]
        assert np.array_equal(found.fresh_entities, entities(np.array(fresh)))
        assert found.evicted.tolist() == [slot for _, slot, _ in evicted]
        assert np.array_equal(found.evicted_entities, entities(np.array([n for n, _, _ in evicted])))
        assert found.evicted_last_ms.tolist() == [last_ms for _, _, last_ms in evicted]

    def expect(self, batch: list[Event]) -> tuple[list[int], list[tuple[int, int, int]]]:
        """Give slots to new numbers as the table should; return them, and who lost a slot (and when seen)."""
        present = {number for number, _ in batch}
        fresh: list[int] = []
        evicted: list[tuple[int, int, int]] = []
        for number, time_ms in batch:
            if number in self.slot_of:
                self.last_ms[number] = max(self.last_ms[number], time_ms)
                continue
            fresh.append(number)
            slot = len(self.slot_of)
            if slot == self.table.capacity:
                old = min(self.slot_of.keys() - present, key=lambda n: (self.last_ms[n], self.slot_of[n]))
                slot = self.slot_of.pop(old)
                evicted.append((old, slot, self.last_ms.pop(old)))
                self.evictions += 1
            self.slot_of[number] = slot
            self.last_ms[number] = time_ms
        return fresh, evicted

    @rule(larger=st.integers(0, 3))
    def move_to_another_table(self, larger: int) -> None:
        full = len(self.table) == self.table.capacity
        other = KeyTable(self.table.capacity + larger * full)
        other.restore(self.table.dump())
        self.table = other

    @invariant()
    def holds_what_the_dict_holds(self) -> None:
        if not hasattr(self, "table"):
            return
        found = self.table.find(entities(np.arange(16)))
        assert found.tolist() == [self.slot_of.get(number, -1) for number in range(16)]
        assert len(self.table) == len(self.slot_of)
        assert self.table.evictions == self.evictions
        by_slot = sorted(self.slot_of, key=self.slot_of.__getitem__)
        assert self.table.last_ms.tolist() == [self.last_ms[number] for number in by_slot]
        assert np.array_equal(self.table.entities, entities(np.array(by_slot)))


TestAgainstDict = AgainstDict.TestCase
TestAgainstDict.settings = settings(max_examples=60, stateful_step_count=12, deadline=None)


@given(batch=events, cuts=st.sets(st.integers(0, 40)))
@settings(deadline=None)
def test_the_cut_into_batches_changes_nothing_while_all_fits(batch: list[Event], cuts: set[int]) -> None:
    whole, parts = KeyTable(16), KeyTable(16)
    edges = [0, *sorted(cut for cut in cuts if cut < len(batch)), len(batch)]
    found = look_up(whole, batch)
    pieces = [look_up(parts, batch[a:b]) for a, b in pairwise(edges)]
    assert found.slots.tolist() == [slot for piece in pieces for slot in piece.slots.tolist()]
    assert found.fresh.tolist() == [slot for piece in pieces for slot in piece.fresh.tolist()]
    assert all(np.array_equal(array, parts.dump()[name]) for name, array in whole.dump().items())


def churn(table: KeyTable, batches: int, seed: int = 0) -> list[Array]:
    """Look up batches from three times as many keys as there are slots, some of them all the time."""
    rng = np.random.default_rng(seed)
    slots = []
    for number in range(batches):
        names = np.where(rng.random(200) < 0.3, rng.integers(0, 50, 200), rng.integers(50, 3000, 200))
        key = np.stack([names, names], axis=1).astype(np.uint64)
        found = table.lookup(
            key, np.zeros(200, np.uint16), np.zeros(200, np.int32), np.full(200, number, np.int64)
        )
        assert np.array_equal(table.find(table.entities), np.arange(len(table)))
        assert len(np.unique(table.entities, axis=0)) == len(table)
        assert not np.isin(found.evicted_entities[:, 0], names).any()
        slots.append(found.slots)
    return slots


def test_a_large_table_stays_whole_under_churn_and_keeps_the_busy_keys() -> None:
    table = KeyTable(1000)
    churn(table, 100)
    assert table.evictions > 5000
    busy = np.stack([np.arange(50), np.arange(50)], axis=1).astype(np.uint64)
    kept = table.find(pack_entities(busy, np.zeros(50, np.uint16), np.zeros(50, np.int32)))
    assert (kept >= 0).mean() > 0.95


def test_a_restored_table_evicts_as_the_first_would_have() -> None:
    first = KeyTable(1000)
    churn(first, 30)
    second = KeyTable(1000)
    second.restore(first.dump())
    for a, b in zip(churn(first, 30, seed=1), churn(second, 30, seed=1), strict=True):
        assert np.array_equal(a, b)


@given(
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**16 - 1),
    st.integers(-1, 2**31 - 1),
)
def test_a_packed_entity_can_be_read_again(high: int, low: int, epoch: int, model: int) -> None:
    packed = pack_entities(
        np.array([[high, low]], np.uint64), np.array([epoch], np.uint16), np.array([model], np.int32)
    )
    assert unpack_entity(packed[0]) == (high, low, epoch, model)


def damage(name: str, array: Any) -> dict[str, Array]:
    table = KeyTable(4)
    look_up(table, [(1, 1), (2, 2)])
    return table.dump() | {name: array}


@pytest.mark.parametrize(
    "arrays",
    [
        damage("last_ms", np.zeros(3, np.int64)),
        damage("entities", np.zeros((2, 3), np.uint64)),
        damage("entities", np.zeros((2, 2), np.uint64)),
        damage("entities", np.zeros((2, 3), np.float64)),
        damage("evictions", np.zeros(0, np.int64)),
    ],
)
def test_a_damaged_dump_is_refused_and_changes_nothing(arrays: dict[str, Array]) -> None:
    table = KeyTable(4)
    look_up(table, [(7, 7)])
    with pytest.raises(ValueError, match="dump of a key table"):
        table.restore(arrays)
    assert table.find(entities(np.array([7]))).tolist() == [0]


def test_a_dump_of_more_keys_than_fit_says_what_to_set() -> None:
    table = KeyTable(4)
    look_up(table, [(n, n) for n in range(4)])
    with pytest.raises(ValueError, match="raise hot_keys to at least 4"):
        KeyTable(3).restore(table.dump())


@pytest.mark.parametrize("capacity", [0, -1, 2**31])
def test_an_impossible_capacity_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match="capacity"):
        KeyTable(capacity)


@pytest.mark.parametrize("capacity", [1, 1000, 65536, 65537])
def test_the_memory_estimate_is_what_a_table_takes(capacity: int) -> None:
    table = KeyTable(capacity)
    assert memory_estimate_bytes(capacity, 100) - 100 * capacity == (
        table._index.nbytes + table._entities.nbytes + table._seen.nbytes
    )


@pytest.mark.parametrize("part", [0, 1, 2])
def test_entities_whose_hashes_agree_in_the_index_stay_apart(part: int) -> None:
    """Among 300,000 entities about ten pairs agree in the 32 bits of the hash that the index keeps."""
    count = 300_000
    crowd = np.zeros((count, 3), np.uint64)
    crowd[:, part] = np.arange(count)
    table = KeyTable(count)
    assert np.array_equal(table.lookup_entities(crowd, np.zeros(count, np.int64)).slots, np.arange(count))
    assert np.array_equal(table.find(crowd), np.arange(count))
