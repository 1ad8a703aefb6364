"""The shipped sample: small enough, large enough, and free of keys that made the references."""

from __future__ import annotations

from dataclasses import fields
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from detectors.reference import ModelReference
from streams.samples import (
    REFERENCE_SUFFIX,
    TRAFFIC_FILE,
    load_references,
    load_sample,
    pack,
    unpack,
)
from streams.samples.build import build
from streams.traces import WEEK_START_MS, KeyTrace

WEEK_MS = 7 * 86_400_000
TRACES = Path(__file__).parents[3] / "shared" / "traces"


@pytest.fixture(scope="module")
def sample() -> list[KeyTrace]:
    return load_sample()


def test_data_and_references_stay_under_three_megabytes() -> None:
    assert (
        sum(len(entry.read_bytes()) for entry in files("streams.samples").iterdir() if entry.is_file()) < 3e6
    )


def test_sample_holds_enough_customers_and_attacks(sample: list[KeyTrace]) -> None:
    benign = [trace for trace in sample if trace.kind == "benign"]
    attacks = [trace for trace in sample if trace.kind == "attack"]
    assert len(benign) >= 60
    assert len({trace.persona for trace in benign if trace.victim == "mnist"}) == 11
    assert len({trace.persona for trace in benign if trace.victim == "adult"}) == 9
    assert len({trace.attack for trace in attacks}) >= 5
    assert len(attacks) >= 6
    # Enough is left to stream when every attack is refused from its first query on.
    assert sum(map(len, benign)) >= 20_000


def test_no_shipped_benign_key_is_even(sample: list[KeyTrace]) -> None:
    assert all(trace.number % 2 == 1 for trace in sample if trace.kind == "benign")


def test_sample_columns_are_sound(sample: list[KeyTrace]) -> None:
    for trace in sample:
        assert np.isfinite(trace.input_sketch).all()
        assert np.isfinite(trace.embedding_sketch).all()
        assert (np.diff(trace.time_ms) >= 0).all()
        assert trace.time_ms[0] >= WEEK_START_MS
        assert trace.time_ms[-1] < WEEK_START_MS + WEEK_MS
        assert trace.is_attack.all() == (trace.kind == "attack")
    assert len({trace.key_reference for trace in sample}) == len(sample)


def test_packing_is_deterministic_and_lossless(sample: list[KeyTrace]) -> None:
    few = [sample[0], sample[-1], sample[1]]
    blob = pack(few)
    assert blob == pack(few)
    for before, after in zip(few, unpack(blob), strict=True):
        assert (before.source, before.number, before.persona) == (after.source, after.number, after.persona)
        for name in ("input_sketch", "embedding_sketch", "predicted_class", "top1", "margin", "entropy_nats"):
            assert np.array_equal(getattr(before, name), getattr(after, name)), name
        assert np.array_equal(before.time_ms, after.time_ms)


def test_every_sampled_model_has_a_reference(sample: list[KeyTrace]) -> None:
    assert set(load_references()) == {trace.victim for trace in sample}


def test_attribution_names_every_attack_and_licence(sample: list[KeyTrace]) -> None:
    text = files("streams.samples").joinpath("ATTRIBUTION.md").read_text()
    assert all(str(trace.attack) in text for trace in sample if trace.kind == "attack")
    assert all(name in text for name in ("CC BY-SA 3.0", "CC BY-SA 4.0", "CC BY 4.0"))
    assert f"{sum(map(len, sample)):,}" in text
    assert f"of {len(sample)} API keys" in text


@pytest.mark.traces
@pytest.mark.skipif(
    not TRACES.is_dir(), reason=f"no recordings at {TRACES}: nothing to build the sample from"
)
def test_sample_and_references_are_what_the_code_makes(tmp_path: Path) -> None:
    """Fails when detection changed and `python -m streams.samples.build` was not run again."""
    build(TRACES, tmp_path)
    shipped = files("streams.samples")
    assert (tmp_path / TRAFFIC_FILE).read_bytes() == shipped.joinpath(TRAFFIC_FILE).read_bytes()
    for model, reference in load_references().items():
        built = ModelReference.load((tmp_path / f"{model}{REFERENCE_SUFFIX}").read_bytes())
        for level in ("event", "key"):
            ours, theirs = getattr(reference, level), getattr(built, level)
            for field in fields(ours):
                np.testing.assert_allclose(
                    getattr(ours, field.name), getattr(theirs, field.name), rtol=1e-3, atol=1e-5
                )
