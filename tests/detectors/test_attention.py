from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from traffic import MODEL, far_away, honest, interleave, key_batch

from detectors.attention import BLOCK_QUERIES, attend, whole
from detectors.batch import SYNTHETIC_EPOCH, build_batch, format_key_reference
from detectors.calibration import fit_reference
from detectors.engine import Engine, EngineSettings
from detectors.modelrows import ModelRows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from detectors.alert import Alert
    from detectors.base import Array
    from detectors.batch import EventBatch
    from detectors.reference import ModelReference

FIRST = 100
PAIRS = 300
OLD, STOLEN = 7, 8


def life(key: int, *, epoch: int = 0) -> EventBatch:
    """Events of which nothing is known but their key, up to the end of a block."""
    count = FIRST + PAIRS * 2 * BLOCK_QUERIES
    return build_batch(
        key=np.full((count, 2), key, np.uint64),
        key_epoch=np.full(count, epoch, np.uint16),
        time_ms=np.zeros(count, np.int64),
        model=np.zeros(count, np.int32),
        models=(MODEL,),
        topic="events",
        offset=np.arange(count),
    )


def looked_at(batch: EventBatch) -> Array:
    """Return the rows that are."""
    part = attend(piece_of(batch), FIRST)
    assert part.rows.tolist() == (2 * part.places + 1).tolist(), "places are the piece's, rows the batch's"
    assert part.slots.tolist() == part.places.tolist()
    assert part.time_ms.tolist() == part.rows.tolist()
    return part.places


def piece_of(batch: EventBatch) -> ModelRows:
    """Return every row as every second one of a batch twice as long."""
    double = batch.take(np.arange(len(batch)).repeat(2))
    double = replace(double, time_ms=np.arange(len(double)))
    rows, slots = np.arange(1, len(double), 2), np.arange(len(double)) // 2
    return ModelRows.of(0, double, rows, slots, slots + 1)


def drawn(key: int) -> Array:
    """Return which block of each pair is looked at, 0 or 1."""
    rows = looked_at(life(key))
    assert rows[:FIRST].tolist() == list(range(FIRST)), "the first are all looked at"
    block, place = np.divmod(rows[FIRST:] - FIRST, BLOCK_QUERIES)
    assert np.array_equal(place, np.tile(np.arange(BLOCK_QUERIES), PAIRS)), "a block is looked at whole"
    of_pair = block[::BLOCK_QUERIES]
    assert np.array_equal(of_pair // 2, np.arange(PAIRS)), "one of two"
    return np.asarray(of_pair % 2)


def test_one_block_of_two_is_looked_at_and_nobody_who_lacks_the_key_knows_which() -> None:
    blocks = np.array([drawn(key) for key in (1, 2, 3, 2**63, 2**64 - 1)])
    assert (abs(blocks.mean(axis=1) - 0.5) < 0.1).all()
    agreement = np.array([(a == b).mean() for k, a in enumerate(blocks) for b in blocks[:k]])
    assert (abs(agreement - 0.5) < 0.1).all(), "one key's blocks tell nothing of another's"
    follows = (blocks[:, 1:] == blocks[:, :-1]).mean(axis=1)
    assert (abs(follows - 0.5) < 0.1).all(), "nor of its next"


def test_the_canary_is_always_looked_at() -> None:
    batch = life(1, epoch=SYNTHETIC_EPOCH)
    assert len(looked_at(batch)) == len(batch) == len(whole(piece_of(batch)).rows)


@cache
def reference() -> ModelReference:
    return fit_reference(MODEL, [honest(number) for number in range(80)])


@cache
def long_lived() -> EventBatch:
    """Two old keys, one of which is stolen in the end, among a few others."""
    own, attack = honest(STOLEN, 1500), far_away(STOLEN, 500)
    stolen = key_batch(STOLEN, np.concatenate([own.input_sketch, attack.input_sketch]))
    return interleave([honest(OLD, 2000), stolen, *(honest(n) for n in range(1000, 1010))])


def engine(queries: int = FIRST, *, learned: bool = False) -> Engine:
    known = {} if learned else {MODEL: reference()}
    return Engine(EngineSettings(hot_keys=1000, attentive_queries=queries), known)


def run(one: Engine, batch: EventBatch, cuts: Sequence[int] = ()) -> list[Alert]:
    edges = [0, *sorted(cuts), len(batch)]
    return [alert for a, b in pairwise(edges) for alert in one.process(batch.take(slice(a, b)))]


@pytest.mark.parametrize("learned", [False, True])
@given(cuts=st.lists(st.integers(0, 5200), max_size=12))
@settings(max_examples=8, deadline=None)
def test_an_engine_that_leaves_out_queries_does_not_depend_on_the_cut(
    cuts: list[int], *, learned: bool
) -> None:
    whole_run, cut = engine(learned=learned), engine(learned=learned)
    assert run(cut, long_lived(), cuts) == run(whole_run, long_lived())
    assert cut.dump() == whole_run.dump()


def test_a_restored_engine_goes_on_in_the_middle_of_a_block() -> None:
    batch, unbroken, first, after = long_lived(), engine(), engine(), engine()
    expected = run(unbroken, batch)
    alerts = run(first, batch.take(slice(0, 3333)))
    after.restore(first.dump())
    assert alerts + run(after, batch.take(slice(3333, None))) == expected
    assert after.dump() == unbroken.dump()


def test_a_stolen_key_is_found_within_the_blocks_that_may_be_left_out() -> None:
    """It was told of before, for its pace: no key that is known asks for so long."""
    name = format_key_reference(0, STOLEN, STOLEN + 1)
    alerts = [alert for alert in run(engine(), long_lived()) if alert.key == name]
    found = [alert for alert in alerts if "out_of_distribution" in alert.families]
    assert 1500 < found[0].query_count <= 1500 + 2 * BLOCK_QUERIES + 20
    assert found[-1].level == "critical"


@pytest.mark.parametrize("name", ["count", "rate_count", "cells", "sample_count", "label_count"])
def test_what_is_left_out_is_counted_all_the_same(name: str) -> None:
    some, every = engine(), engine(100_000)
    for one in (some, every):
        run(one, honest(OLD, 3000))
    assert some._keys.slabs["ring_count"][0] < 2000 < every._keys.slabs["ring_count"][0]
    np.testing.assert_array_equal(some._keys.slabs[name][0], every._keys.slabs[name][0])
    weight, events = some._keys.slabs["fresh"][0]
    assert events == 3000
    assert weight == pytest.approx(every._keys.slabs["fresh"][0, 0], rel=0.15)
    assert some._keys.slabs["held"][0] == pytest.approx(every._keys.slabs["held"][0], rel=0.15)
