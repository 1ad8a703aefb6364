from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.memory import reserve
from detectors.pages import ENTRY_BYTES, LENGTHS, Pages, next_page, place_of, size_of
from detectors.slabs import PAGE, PAGE_COUNT, make_slabs, slot_bytes

if TYPE_CHECKING:
    from detectors.base import Array, Fields

FIELDS: Fields = {"flag": ("u1", ()), "ring": ("u8", (4,)), "count": ("u4", ())}
PAGED: Fields = {**FIELDS, PAGE: ("u4", ()), PAGE_COUNT: ("u4", ())}


def test_fresh_slabs_are_zero_and_lie_side_by_side() -> None:
    slabs = make_slabs(FIELDS, 10)
    assert {name: (slab.dtype.str, slab.shape) for name, slab in slabs.items()} == {
        "flag": ("|u1", (10,)),
        "ring": ("<u8", (10, 4)),
        "count": ("<u4", (10,)),
    }
    assert not any(slab.any() for slab in slabs.values())
    assert {slab.strides[0] for slab in slabs.values()} == {slot_bytes(FIELDS)}
    assert slot_bytes(PAGED) == 48 + LENGTHS[-1] * ENTRY_BYTES


def test_only_the_named_slots_are_cleared() -> None:
    slabs = make_slabs(FIELDS, 4)
    for slab in slabs.values():
        slab[:] = 7
    slabs.clear(np.array([1, 3]))
    assert slabs["count"].tolist() == [7, 0, 7, 0]
    assert slabs["ring"].any(axis=1).tolist() == [True, False, True, False]


def test_a_reservation_takes_no_memory_until_it_is_written_to() -> None:
    huge = reserve((1 << 40,), np.uint8)
    huge[1 << 39] = 1
    assert huge[(1 << 39) - 1 : (1 << 39) + 2].tolist() == [0, 1, 0]


def remember(pages: Pages, page: Array, count: Array, slot: int, value: int) -> None:
    """Put an entry of equal bytes in place `count` modulo 256, as a ring does."""
    memory, start, free, head = pages.arrays
    number = next_page(int(page[slot]), int(count[slot]), memory, start, free, head)
    position, count[slot] = int(count[slot]) % LENGTHS[-1], count[slot] + 1
    page[slot], size = number, size_of(int(count[slot]))
    memory[place_of(number, size, start) + position :: LENGTHS[size]][:ENTRY_BYTES] = value


def entries(values: list[int]) -> list[int]:
    """Return what is exported of a page whose entries are of equal bytes."""
    return values * ENTRY_BYTES


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 90), st.booleans()), max_size=30))
def test_pages_hold_what_lists_would(steps: list[tuple[int, int, bool]]) -> None:
    """Keys grow from size to size, leave, and come again; pages are used again and never mixed up."""
    pages, page, count = Pages(4), np.zeros(4, np.uint32), np.zeros(4, np.uint32)
    expected: list[list[int]] = [[] for _ in range(4)]
    for slot, length, leaves in steps:
        if leaves:
            pages.release(page[slot : slot + 1], count[slot : slot + 1])
            page[slot] = count[slot] = 0
            expected[slot] = []
        for value in range(length):
            place = int(count[slot]) % LENGTHS[-1]
            remember(pages, page, count, slot, value)
            expected[slot][place : place + 1] = [value]
        found = pages.export(page, count)
        assert found.tolist() == [byte for values in expected for byte in entries(values)]
        other = Pages(4)
        assert other.export(other.fill(count, found), count).tolist() == found.tolist()
        assert pages.nbytes <= 4 * sum(LENGTHS) * ENTRY_BYTES


def test_a_dump_that_does_not_fit_is_refused() -> None:
    slabs = make_slabs(PAGED, 2)
    slabs[PAGE_COUNT][:] = 3
    slabs[PAGE][:] = slabs.pages.fill(slabs[PAGE_COUNT], np.zeros(6 * ENTRY_BYTES, np.uint8))
    arrays = slabs.export(np.arange(2))
    with pytest.raises(ValueError, match="do not fit the counts"):
        make_slabs(PAGED, 2).fill(np.arange(2), arrays | {"page": arrays["page"][1:]})
    with pytest.raises(ValueError, match="another layout"):
        make_slabs(PAGED, 2).fill(np.arange(2), arrays | {"row": arrays["row"][:, 1:]})
