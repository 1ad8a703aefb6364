"""The kernels behind campaigns against plain Python: products, groups, and how even counts are."""

from __future__ import annotations

from math import exp
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import chdtr

from detectors.campaign import pace
from detectors.campaign.links import MEMBERS, PIVOTS, directions, find_groups, multiply
from detectors.campaign.pace import HONEST_VARIANCE, LEAST_FRESH, LEAST_P_VALUE, LEAST_TOTAL, pace_p_values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

COSINE = 0.5


def plain_groups(profiles: NDArray[np.float32], turn: int) -> list[list[int]]:
    """Take the densest spot first, one row at a time."""
    unit = directions(profiles).astype(float)
    pivots = [(turn * PIVOTS + n) % len(unit) for n in range(min(PIVOTS, len(unit)))]
    free = set(range(len(unit)))
    groups: list[list[int]] = []
    while True:
        near = {p: [row for row in free if unit[row] @ unit[p] >= COSINE] for p in pivots if p in free}
        best = max(near, key=lambda p: (len(near[p]), -pivots.index(p)), default=None)
        if best is None or len(near[best]) < MEMBERS:
            return groups
        centre = unit[near[best]].sum(axis=0)
        members = sorted(row for row in free if unit[row] @ centre >= COSINE * np.linalg.norm(centre))
        free -= {*near[best], *members}
        if len(members) >= MEMBERS:
            groups.append(members)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), spots=st.integers(1, 6), rows=st.integers(0, 60), turn=st.integers(0, 3))
def test_groups_equal_plain_python(seed: int, spots: int, rows: int, turn: int) -> None:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((spots, 16))
    profiles = centres[rng.integers(0, spots, rows)] + rng.uniform(0.2, 1.2) * rng.standard_normal((rows, 16))
    found = find_groups(profiles.astype(np.float32), COSINE, turn)
    assert [group.tolist() for group in found] == plain_groups(profiles.astype(np.float32), turn)


@pytest.mark.parametrize("rows", [0, 1, 31, 33, 1000])
def test_a_product_in_pieces_is_the_product(rows: int) -> None:
    rng = np.random.default_rng(rows)
    left, right = rng.standard_normal((rows, 32)), rng.standard_normal((32, 256))
    found = multiply(left.astype(np.float32), right.astype(np.float32))
    assert found.shape == (rows, 256)
    np.testing.assert_allclose(found, left @ right, rtol=1e-3, atol=1e-4)


def plain_evenness(counts: Sequence[int]) -> float:
    ordered = np.log(np.sort(counts) + 0.5)
    typical = exp(ordered[len(counts) // 2])
    freedom = float(len(counts) - 1)
    expected = HONEST_VARIANCE + 1 / typical
    discrete = 1 / (12 * typical * typical)
    p_value = chdtr(freedom, freedom * (ordered.var(ddof=1) + discrete) / expected)
    if len(counts) >= pace._ROBUST_MEMBERS:
        freedom *= pace._IQR_EFFICIENCY
        quarter = len(counts) // 4
        spread = ((ordered[-1 - quarter] - ordered[quarter]) / pace._NORMAL_IQR) ** 2 + discrete
        p_value = 2 * min(p_value, chdtr(freedom, freedom * spread / expected))
    return float(np.clip(p_value, LEAST_P_VALUE, 1.0))


def plain_pace(fresh: Sequence[int], total: Sequence[int]) -> float:
    parts = ((fresh, LEAST_FRESH), (total, LEAST_TOTAL))
    tested = [plain_evenness(counts) for counts, least in parts if sorted(counts)[len(counts) // 2] >= least]
    return min(1.0, len(tested) * min(tested)) if tested else 1.0


counts = st.integers(0, 200)
group = st.integers(4, 20).flatmap(
    lambda size: st.tuples(*(st.lists(counts, min_size=size, max_size=size) for _ in range(2)))
)


@settings(deadline=None)
@given(st.lists(group, max_size=6))
def test_how_even_counts_are_equals_plain_python(groups: list[tuple[list[int], list[int]]]) -> None:
    edges = np.cumsum([0, *(len(fresh) for fresh, _ in groups)])
    fresh, total = (np.array([n for g in groups for n in g[part]], np.int64) for part in (0, 1))
    found = pace_p_values(fresh, total, edges)
    np.testing.assert_allclose(found, [plain_pace(*one) for one in groups], rtol=1e-9)
