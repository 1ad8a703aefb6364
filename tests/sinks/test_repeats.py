from __future__ import annotations

import doctest

from hypothesis import given
from hypothesis import strategies as st

from sinks import repeats
from sinks.repeats import Repeats


@given(ids=st.lists(st.integers(0, 20)), capacity=st.integers(1, 30))
def test_an_id_passes_unless_it_is_among_the_newest_different_ones(ids: list[int], capacity: int) -> None:
    memory = Repeats(capacity)
    passed: list[int] = []
    for record_id in ids:
        expected = record_id not in passed[-capacity:]
        assert memory.is_new(record_id) == expected
        if expected:
            passed.append(record_id)


def test_the_example_is_true() -> None:
    assert doctest.testmod(repeats).failed == 0
