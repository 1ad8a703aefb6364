from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detectors.prada import LEAST_DISTANCES, TEST_EVERY, Prada, first_alarm
from streams.traces import KeyTrace, read_trace

TRACES = Path(__file__).parents[3] / "shared" / "traces"
needs_traces = pytest.mark.skipif(not TRACES.is_dir(), reason=f"no recordings at {TRACES}")


def alarm(trace: KeyTrace) -> int | None:
    return first_alarm(trace.input_sketch.astype(np.float32), trace.predicted_class.astype(np.int32))


def test_normal_distances_pass_and_repeated_ones_do_not() -> None:
    rng = np.random.default_rng(0)
    blank = np.zeros(600, np.int32)
    assert first_alarm(rng.standard_normal((600, 32)).astype(np.float32), blank, 0.9) is None
    pool = rng.standard_normal((30, 32)).astype(np.float32)
    found = first_alarm(pool[rng.integers(0, 30, 600)], blank)
    assert found is not None
    assert found % TEST_EVERY == 1


def test_nothing_is_tested_before_there_are_enough_distances_of_one_class() -> None:
    rng = np.random.default_rng(1)
    key = Prada()
    for number in range(1, LEAST_DISTANCES + 2):
        assert key.observe(rng.standard_normal(8).astype(np.float32), 0) is None, number
    spread = Prada()
    rows = [spread.observe(rng.standard_normal(8).astype(np.float32), n % 90) for n in range(800)]
    assert rows == [None] * 800  # each class has fewer than ten distances


def test_memory_grows_with_the_queries() -> None:
    rng = np.random.default_rng(2)
    key, sizes = Prada(), []
    for _ in range(3):
        for _ in range(200):
            key.observe(rng.standard_normal(32).astype(np.float32), 0)
        sizes.append(key.nbytes)
    assert sizes[0] < sizes[1] < sizes[2]


@pytest.mark.traces
@needs_traces
@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("mnist__jbda", 121),
        ("mnist__jbda_tr", 121),
        ("mnist__trnd_ifgsm", 191),
        ("mnist__square", 111),
        ("mnist__tramer_nat", 211),
        ("mnist__uniform", None),
        ("mnist__knockoff_rand_kmnist", None),
        ("adult__grid", 941),
    ],
)
def test_attacks_are_found_where_our_first_reproduction_found_them(name: str, query: int | None) -> None:
    """The paper gives 120 for JbDA and 140 for T-RND, on images instead of sketches."""
    (attack,) = read_trace(TRACES / f"{name}__s11.npz")
    assert alarm(attack.take(slice(0, 2000))) == query


@pytest.mark.traces
@needs_traces
@pytest.mark.parametrize(("name", "share"), [("mnist__benign__s501", 0.178), ("adult__benign__s502", 0.5)])
def test_so_many_honest_keys_are_alarmed(name: str, share: float) -> None:
    alarmed = [alarm(key) is not None for key in read_trace(TRACES / f"{name}.npz")]
    assert np.mean(alarmed) == pytest.approx(share, abs=0.002)
