"""The page of techniques is what the code writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams.evaluate import evaluate
from streams.techniques import TECHNIQUES, UNDETECTABLE, floor_lines, floor_queries, known_lines, render
from streams.traces import read_folder

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "deploy" / "docs" / "techniques.md"
TRACES = ROOT.parent / "shared" / "traces"


def test_the_page_holds_all_that_is_known_without_measuring() -> None:
    page = PAGE.read_text()
    for technique in TECHNIQUES:
        assert "\n".join(known_lines(technique)) in page
    assert "\n".join(floor_lines()) in page
    assert UNDETECTABLE in page


@pytest.mark.traces
@pytest.mark.skipif(not TRACES.is_dir(), reason=f"no recordings at {TRACES}: nothing to measure")
def test_the_page_is_what_is_measured() -> None:
    """Fails when detection changed and `modelwarden evaluate --techniques` was not run again."""
    assert render(evaluate(read_folder(TRACES))) == PAGE.read_text()


def test_the_floor_is_that_of_the_normal_case() -> None:
    """Undiluted, the divergence of N(d, 1) from N(0, 1) is d^2 / 2."""
    assert floor_queries(2.0, 1.0, 1e-6) == 7
    assert floor_queries(1.0, 1.0, 1e-6) == 28
    assert floor_queries(1.0, 0.5, 1e-6) == pytest.approx(100, abs=1)
    assert floor_queries(3.0, 0.1, 1e-6) == pytest.approx(64, abs=1)
