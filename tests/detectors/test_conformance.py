"""What every signal must keep: `detectors.base.Signal` as a suite over `detectors.signals.ALL_SIGNALS`.

A new signal is tested as soon as it is listed there. It needs a twin, `twins/<name>.py`, with
`score(batch, keys, reference)`: the same scores for all rows from a cold start, in plain Python.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.arrays import pack_arrays, unpack_arrays
from detectors.attention import Part
from detectors.base import score
from detectors.batch import COLUMNS, EventBatch, build_batch
from detectors.budget import SPREAD_COLUMNS, follow_spread
from detectors.calibration import Sample, fit_key_events
from detectors.evidence import write_evidence
from detectors.keystate import FIELDS
from detectors.secondopinion import FEATURES
from detectors.signals import ALL_SIGNALS
from detectors.signals.coverage import Coverage
from detectors.signals.near_duplicate import NearDuplicate
from detectors.slabs import make_slabs, slot_bytes
from detectors.statistics import (
    HORIZONS,
    SCORES,
    STATISTICS,
    VALUE_OF,
    WEIGHTED,
    WEIGHTED_VALUE,
    event_values,
    update_means,
)
from detectors.track import MEAN_FIELDS, TRACK_FIELDS, Progress, Track

if TYPE_CHECKING:
    from collections.abc import Sequence

    from detectors.base import Array, Signal, Slabs
    from detectors.reference import EventReference

KEYS = 4
HOT_KEY_BYTES = 4096
"""Most that may be kept of a key, its largest page included: 4 KiB."""


def make_reference() -> EventReference:
    rng = np.random.default_rng(7)
    label = rng.integers(0, 3, 600).astype(np.int32)
    shift = label[:, None].astype(np.float32)
    inputs, embeddings = (rng.standard_normal((600, 32)).astype(np.float32) + shift for _ in range(2))
    margin = rng.random(600, dtype=np.float32)
    keys = [slice(key, None, 6) for key in range(6)]
    return fit_key_events([Sample(inputs[k], embeddings[k], label[k], margin[k]) for k in keys])


REFERENCE = make_reference()


def make_batch(seed: int, count: int = 400) -> tuple[EventBatch, Array]:
    """Draw ordinary and odd events of a few keys; return them and the slot of each row.

    Among them: repeats, near copies, unknown classes, far sketches, absent and NaN values, times that are
    negative, late, or far ahead.
    """
    rng = np.random.default_rng(seed)
    slots = rng.integers(0, KEYS, count)
    pool = rng.standard_normal((12, 32)) + rng.integers(0, 3, (12, 1))
    inputs = pool[rng.integers(0, 12, count)] + rng.choice(
        [0.0, 0.05, 1.0], (count, 1)
    ) * rng.standard_normal((count, 32))
    inputs[rng.random(count) < 0.02] *= 1000
    inputs[rng.random(count) < 0.02, 3] = np.nan
    inputs[rng.random(count) < 0.05] = np.nan
    embeddings = np.where(rng.random((count, 1)) < 0.1, np.nan, rng.standard_normal((count, 32)))
    time_ms = 1_700_000_000_000 + np.cumsum(rng.integers(0, 400_000, count))
    odd = rng.random(count)
    time_ms = np.where(odd < 0.03, -5_000, np.where(odd < 0.06, time_ms - 10**9, time_ms))
    time_ms = np.where(odd > 0.99, time_ms + 86_400_000, time_ms)
    batch = build_batch(
        key=np.stack([slots, slots], axis=1).astype(np.uint64),
        time_ms=time_ms.astype(np.int64),
        model=np.zeros(count, np.int32),
        models=("toy",),
        topic="events",
        offset=np.arange(count, dtype=np.int64),
        input_sketch=inputs,
        embedding_sketch=embeddings,
        predicted_class=rng.choice([-1, 0, 1, 2, 900], count),
        margin=np.where(rng.random(count) < 0.1, np.nan, rng.random(count)),
        top1=np.where(rng.random(count) < 0.1, np.nan, rng.random(count)),
        entropy_nats=np.where(rng.random(count) < 0.1, np.nan, 2 * rng.random(count)),
        prompt_tokens=rng.integers(-1, 5000, count),
        completion_tokens=rng.integers(-1, 5000, count),
        max_tokens=rng.integers(-1, 5000, count),
        top_logprobs=rng.integers(-1, 21, count),
        logit_bias_count=rng.integers(-1, 300, count),
        choice_count=rng.integers(-1, 9, count),
        temperature=np.where(rng.random(count) < 0.3, np.nan, 2 * rng.random(count)),
        prefix_hash=rng.integers(0, 4, count).astype(np.uint64),
    )
    return batch, slots


def freeze(batch: EventBatch, slots: Array) -> None:
    """Make a write into the input an error."""
    for name in COLUMNS:
        getattr(batch, name).flags.writeable = False
    slots.flags.writeable = False


def run(signal: Signal, batch: EventBatch, slots: Array, slabs: Slabs, edges: Sequence[int] = ()) -> Array:
    """Score a batch in the pieces between the edges."""
    ends = [0, *sorted(edge for edge in edges if edge < len(batch)), len(batch)]
    return np.concatenate(
        [score(signal, batch.take(slice(a, b)), slots[a:b], slabs) for a, b in pairwise(ends)]
    )


def assert_equal_bytes(found: dict[str, Array], expected: dict[str, Array]) -> None:
    assert {n: a.tobytes() for n, a in found.items()} == {n: a.tobytes() for n, a in expected.items()}


def load_twin(name: str) -> Any:
    path = Path(__file__).parent / "twins" / f"{name}.py"
    assert path.exists(), f"signal {name} has no twin: write {path.name} beside the others"
    spec = importlib.util.spec_from_file_location(f"twin_of_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=sorted(ALL_SIGNALS))
def signal(request: pytest.FixtureRequest) -> Signal:
    made: Signal = ALL_SIGNALS[request.param](REFERENCE)
    return made


def test_it_says_what_it_is(signal: Signal) -> None:
    assert ALL_SIGNALS[signal.name] is type(signal)
    assert len(set(signal.scores)) == len(signal.scores) > 0
    assert all(np.dtype(dtype).kind in "biuf" for dtype, _ in signal.fields.values())


def test_no_two_signals_share_a_score_or_a_field() -> None:
    signals = [make(REFERENCE) for make in ALL_SIGNALS.values()]
    for names in (
        [s for signal in signals for s in signal.scores],
        [f for signal in signals for f in signal.fields],
    ):
        assert len(set(names)) == len(names)
    assert slot_bytes(FIELDS) <= HOT_KEY_BYTES


def test_a_track_gives_what_its_parts_give_one_after_the_other() -> None:
    batch, slots = make_batch(8, 500)
    together, apart = make_slabs(TRACK_FIELDS, KEYS), make_slabs(TRACK_FIELDS, KEYS)
    progress = Track(REFERENCE).advance(batch, np.arange(500), slots, together)
    signals = [make(REFERENCE) for make in ALL_SIGNALS.values()]
    scores = np.concatenate([score(signal, batch, slots, apart) for signal in signals], axis=1)
    values, weight, bets = event_values(scores, REFERENCE)
    mean, mass = (np.empty((500, len(STATISTICS)), np.float32) for _ in range(2))
    kinds = VALUE_OF, HORIZONS, WEIGHTED, WEIGHTED_VALUE
    update_means(values, weight, slots, *(apart[name] for name in MEAN_FIELDS), *kinds, mean, mass)
    spread = np.empty((500, SPREAD_COLUMNS), np.float32)
    coverage = scores[:, [SCORES.index(name) for name in Coverage.scores]]
    follow_spread(spread, coverage, np.arange(500), weight, slots, apart["fresh"])
    features = scores[:, [SCORES.index(name) for name in FEATURES]]
    e_detector = np.empty(bets.shape, np.float32)
    write_evidence(e_detector, bets, slots, apart["evidence"])
    expected = Progress(mean, mass, e_detector, features, spread)
    for name, column in expected._asdict().items():
        np.testing.assert_array_equal(getattr(progress, name), column, err_msg=name)
    every = np.arange(KEYS)
    assert_equal_bytes(together.export(every), apart.export(every))


def test_a_track_counts_all_rows_and_looks_at_some() -> None:
    """As if the others had not come, but for the signals that count all."""
    batch, slots = make_batch(9, 600)
    ones = np.ones(600, np.int32)  # of which a prompt that comes again is a hit
    batch = replace(batch, max_tokens=ones, logit_bias_count=ones)
    rng = np.random.default_rng(9)
    own = np.flatnonzero(rng.random(600) < 0.8)
    places = np.flatnonzero(rng.random(len(own)) < 0.6)
    rows, slots = own[places], slots[own]
    part = Part(places, rows, slots[places], batch.time_ms[rows])
    assert {name for name, one in ALL_SIGNALS.items() if one.counts_all} == {"rate", "coverage"}
    found = Track(REFERENCE).advance(batch, own, slots, make_slabs(TRACK_FIELDS, KEYS), part)
    alone, every = (
        Track(REFERENCE).advance(batch.take(at), np.arange(len(at)), of, make_slabs(TRACK_FIELDS, KEYS))
        for at, of in ((rows, part.slots), (own, slots))
    )
    for s, statistic in enumerate(STATISTICS):
        expected = every.mean[places, s] if statistic.value.name == "rate" else alone.mean[:, s]
        np.testing.assert_array_equal(found.mean[:, s], expected, err_msg=statistic.name)
    np.testing.assert_array_equal(found.features, alone.features)
    np.testing.assert_array_equal(found.e_detector, alone.e_detector)
    np.testing.assert_array_equal(found.spread[:, [0, 1, 2, 4]], every.spread[:, [0, 1, 2, 4]])


def test_it_equals_its_twin(signal: Signal) -> None:
    twin = load_twin(signal.name)
    for seed in range(3):
        batch, slots = make_batch(seed, 700)
        found = run(signal, batch, slots, make_slabs(signal.fields, KEYS))
        expected = np.array(twin.score(batch, slots.tolist(), REFERENCE))
        assert found.shape == expected.shape == (700, len(signal.scores))
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)


def test_it_equals_its_twin_over_a_long_life_of_one_key(signal: Signal) -> None:
    """Everything asked is new, and some of it lies beyond what a byte tells apart."""
    rng = np.random.default_rng(5)
    batch, slots = make_batch(5, 900)
    inputs = rng.standard_normal((900, 32)) * rng.choice([1.0, 4.0, 20.0], (900, 1))
    batch, slots = replace(batch, input_sketch=inputs.astype(np.float32)), np.zeros_like(slots)
    found = run(signal, batch, slots, make_slabs(signal.fields, 1))
    expected = np.array(load_twin(signal.name).score(batch, slots.tolist(), REFERENCE))
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)


def test_the_point_opposite_to_the_nearest_may_lie_beyond_a_byte() -> None:
    """It is 256 quanta away from the only entry, whose square does not fit 16 bits."""
    signal = NearDuplicate(REFERENCE)
    twin = load_twin("near_duplicate")
    batch, slots = make_batch(6, 2)
    quantum = float(REFERENCE.pair_distance[0]) / np.sqrt(32) / 24
    inputs = np.tile(np.resize(REFERENCE.ring_centre, 32), (2, 1))
    inputs[:, 0] += np.array([-1, 127]) * quantum
    batch, slots = replace(batch, input_sketch=inputs.astype(np.float32)), np.zeros_like(slots)
    found = run(signal, batch, slots, make_slabs(signal.fields, 1))
    assert found[1, signal.scores.index("midpoint")] == 0
    np.testing.assert_allclose(found, np.array(twin.score(batch, [0, 0], REFERENCE)), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", sorted(ALL_SIGNALS))
@given(seed=st.integers(0, 2**32), edges=st.sets(st.integers(0, 120), max_size=8))
@settings(max_examples=20, deadline=None)
def test_any_cut_of_the_rows_gives_the_same(name: str, seed: int, edges: set[int]) -> None:
    signal: Signal = ALL_SIGNALS[name](REFERENCE)
    batch, slots = make_batch(seed, 120)
    states = [make_slabs(signal.fields, KEYS) for _ in range(3)]
    whole = run(signal, batch, slots, states[0])
    pieces = run(signal, batch, slots, states[1], sorted(edges))
    singly = run(signal, batch, slots, states[2], range(1, 120))
    for other, state in ((pieces, states[1]), (singly, states[2])):
        np.testing.assert_allclose(other, whole, rtol=1e-5, atol=1e-6)
        assert_equal_bytes(state.export(np.arange(KEYS)), states[0].export(np.arange(KEYS)))


def test_odd_input_raises_nothing_and_scores_finite_or_nan(signal: Signal) -> None:
    for seed in range(5):
        batch, slots = make_batch(seed)
        found = run(signal, batch, slots, make_slabs(signal.fields, KEYS))
        assert found.dtype == np.float32
        assert not np.isinf(found).any()
    bare = build_batch(
        key=np.zeros((3, 2), np.uint64),
        time_ms=np.array([-(2**62), 0, 2**62]),
        model=np.zeros(3, np.int32),
        models=("toy",),
        topic="events",
        offset=np.arange(3),
    )
    found = run(signal, bare, np.zeros(3, np.int64), make_slabs(signal.fields, 1))
    assert not np.isinf(found).any()


def test_an_empty_batch_gives_no_rows(signal: Signal) -> None:
    batch, slots = make_batch(0, 0)
    assert run(signal, batch, slots, make_slabs(signal.fields, 1)).shape == (0, len(signal.scores))


def test_the_input_is_not_touched(signal: Signal) -> None:
    batch, slots = make_batch(1)
    freeze(batch, slots)
    before = {name: getattr(batch, name).tobytes() for name in COLUMNS}
    run(signal, batch, slots, make_slabs(signal.fields, KEYS))
    assert all(getattr(batch, name).tobytes() == before[name] for name in COLUMNS)


def test_a_replay_is_the_same_to_the_byte(signal: Signal) -> None:
    batch, slots = make_batch(2)
    first, second = make_slabs(signal.fields, KEYS), make_slabs(signal.fields, KEYS)
    again: Signal = ALL_SIGNALS[signal.name](REFERENCE)
    assert run(signal, batch, slots, first).tobytes() == run(again, batch, slots, second).tobytes()
    assert_equal_bytes(first.export(np.arange(KEYS)), second.export(np.arange(KEYS)))


def test_state_that_went_through_bytes_goes_on_the_same(signal: Signal) -> None:
    batch, slots = make_batch(3)
    slabs = make_slabs(signal.fields, KEYS)
    run(signal, batch.take(slice(0, 200)), slots[:200], slabs)
    everything = np.arange(KEYS)
    arrays, _ = unpack_arrays(pack_arrays("state", 1, slabs.export(everything)), "state", 1)
    stored = make_slabs(signal.fields, KEYS)
    stored.fill(everything, arrays)
    rest = batch.take(slice(200, None))
    assert run(signal, rest, slots[200:], slabs).tobytes() == run(signal, rest, slots[200:], stored).tobytes()
    assert_equal_bytes(stored.export(everything), slabs.export(everything))


def test_state_stays_in_its_slabs(signal: Signal) -> None:
    """Bounded memory: no slab grows or is swapped, no other key's slot changes, the signal keeps nothing."""
    slabs = make_slabs(signal.fields, KEYS + 2)
    shapes = {field: (slab.shape, slab.ctypes.data) for field, slab in slabs.items()}
    own = {name: id(value) for name, value in vars(signal).items()}
    for seed in range(4):
        batch, slots = make_batch(seed)
        run(signal, batch, slots, slabs)
    assert {field: (slab.shape, slab.ctypes.data) for field, slab in slabs.items()} == shapes
    assert not any(slab[KEYS:].any() for slab in slabs.values())
    assert {name: id(value) for name, value in vars(signal).items()} == own


def test_keys_do_not_see_each_other(signal: Signal) -> None:
    batch, slots = make_batch(4)
    together = run(signal, batch, slots, make_slabs(signal.fields, KEYS))
    for slot in range(KEYS):
        rows = np.flatnonzero(slots == slot)
        alone = run(signal, batch.take(rows), slots[rows], make_slabs(signal.fields, KEYS))
        np.testing.assert_allclose(alone, together[rows], rtol=1e-5, atol=1e-6)


def test_a_duplicate_event_is_scored_like_any_other(signal: Signal) -> None:
    batch, slots = make_batch(5)
    twice = np.repeat(np.arange(len(batch)), 2)
    found = run(signal, batch.take(twice), slots[twice], make_slabs(signal.fields, KEYS))
    assert found.shape == (800, len(signal.scores))
    assert not np.isinf(found).any()
