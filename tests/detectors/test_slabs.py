from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from detectors.slabs import clear_slots, grow_slabs, make_slabs, slot_bytes

FIELDS = {"ring": ("u8", (4,)), "count": ("u4", ())}


def test_fresh_slabs_are_zero_and_as_large_as_said() -> None:
    slabs = make_slabs(FIELDS, 10)
    assert {name: (slab.dtype.str, slab.shape) for name, slab in slabs.items()} == {
        "ring": ("<u8", (10, 4)),
        "count": ("<u4", (10,)),
    }
    assert not any(slab.any() for slab in slabs.values())
    assert sum(slab.nbytes for slab in slabs.values()) == 10 * slot_bytes(FIELDS)


@given(st.lists(st.integers(0, 6000), min_size=1, max_size=5))
def test_growth_keeps_what_is_there_and_stops_at_the_capacity(needs: list[int]) -> None:
    slabs = make_slabs(FIELDS)
    for step, needed in enumerate(needs, 1):
        before = slabs["count"].copy()
        grow_slabs(slabs, needed, 6000)
        assert needed <= len(slabs["count"]) == len(slabs["ring"]) <= min(max(1024, 2 * max(needs)), 6000)
        assert np.array_equal(slabs["count"][: len(before)], before)
        assert not slabs["count"][len(before) :].any()
        slabs["count"][:] = step


def test_only_the_named_slots_are_cleared() -> None:
    slabs = make_slabs(FIELDS, 4)
    for slab in slabs.values():
        slab[:] = 7
    clear_slots(slabs, np.array([1, 3]))
    assert slabs["count"].tolist() == [7, 0, 7, 0]
    assert slabs["ring"].any(axis=1).tolist() == [True, False, True, False]
