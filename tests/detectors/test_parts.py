"""Snapshots in parts: the newest part of every name is the state, however the parts came about."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from traffic import MODEL, augmentation, far_away, honest, interleave

from detectors import parts, slotparts
from detectors.calibration import fit_reference
from detectors.engine import Engine, EngineSettings, StateError

if TYPE_CHECKING:
    from detectors.batch import EventBatch
    from detectors.reference import ModelReference

LIMIT_BYTES = 900_000


@cache
def reference() -> ModelReference:
    return fit_reference(MODEL, [honest(number) for number in range(80)])


@cache
def mixed() -> EventBatch:
    return interleave([far_away(9001), augmentation(9002), *(honest(n, 60) for n in range(1000, 1080))])


def make(*, learned: bool = False, hot_keys: int = 1000) -> Engine:
    return Engine(EngineSettings(hot_keys=hot_keys), {} if learned else {MODEL: reference()})


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many small parts, so that the traffic of a test touches some and spares others."""
    for module in (slotparts, parts):
        monkeypatch.setattr(module, "PART_BYTES", 20_000)


@pytest.mark.parametrize(("learned", "hot_keys"), [(False, 1000), (True, 1000), (False, 16)])
@settings(max_examples=8, deadline=None)
@given(cuts=st.lists(st.integers(0, 5000), min_size=1, max_size=6))
def test_the_newest_part_of_every_name_restores_the_state(
    cuts: list[int], *, learned: bool, hot_keys: int
) -> None:
    engine, after = make(learned=learned, hot_keys=hot_keys), make(learned=learned, hot_keys=hot_keys)
    stored: dict[str, bytes] = {}
    for number, (start, stop) in enumerate(pairwise(sorted([0, *cuts]))):
        engine.process(mixed().take(slice(start, stop)))
        stored |= engine.dump_parts(changed_only=number > 0)
    after.restore_parts(stored)
    assert after.dump() == engine.dump()
    rest = mixed().take(slice(max(cuts), None))
    assert after.process(rest) == engine.process(rest)
    stored |= after.dump_parts(changed_only=True)
    again = make(learned=learned, hot_keys=hot_keys)
    again.restore_parts(stored)
    assert again.dump() == engine.dump()


def test_what_did_not_change_is_left_out() -> None:
    engine = make()
    engine.process(mixed())
    full = dict(engine.dump_parts(changed_only=False))
    assert list(dict(engine.dump_parts(changed_only=True))) == ["meta"]
    engine.process(mixed().take(slice(0, 1)))
    changed = [name for name, _ in engine.dump_parts(changed_only=True)]
    assert [name for name in changed if name.startswith("hot")] == ["hot-changes/3/0"]
    assert sum(name.startswith("hot/") for name in full) > 10
    assert list(dict(engine.dump_parts(changed_only=False))) == list(full)


def test_feedback_is_a_change() -> None:
    engine = make()
    alert = engine.process(mixed())[0]
    stored = dict(engine.dump_parts(changed_only=False))
    engine.forgive(alert.key, MODEL)
    stored |= engine.dump_parts(changed_only=True)
    restored = make()
    restored.restore_parts(stored)
    assert restored.dump() == engine.dump()


def test_parts_fit_a_kafka_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    engine = make(learned=True)
    rng = np.random.default_rng(0)
    engine.process(interleave([honest(int(n), 20) for n in rng.permutation(600)]))
    sizes = {name: len(part) for name, part in engine.dump_parts(changed_only=False)}
    assert max(sizes.values()) <= LIMIT_BYTES
    assert sum(sizes.values()) > LIMIT_BYTES


def test_a_dump_that_was_broken_off_is_repeated() -> None:
    engine = make()
    engine.process(mixed())
    before = dict(engine.dump_parts(changed_only=False))
    engine.process(mixed().take(slice(0, 50)))
    next(iter(engine.dump_parts(changed_only=True)))
    restored = make()
    restored.restore_parts(before | dict(engine.dump_parts(changed_only=True)))
    assert restored.dump() == engine.dump()


def test_an_engine_in_use_does_not_go_on_writing() -> None:
    engine = make()
    engine.process(mixed())
    writing = iter(engine.dump_parts(changed_only=False))
    next(writing)
    engine.process(mixed().take(slice(0, 1)))
    with pytest.raises(RuntimeError, match="hold a lock"):
        next(writing)


def test_parts_that_were_not_written_together_are_refused() -> None:
    engine = make()
    engine.process(mixed().take(slice(0, 3000)))
    early = dict(engine.dump_parts(changed_only=False))
    engine.process(mixed().take(slice(3000, None)))
    late = early | dict(engine.dump_parts(changed_only=False))
    for mix in (early | {"meta": late["meta"]}, late | {"hot/0": early["hot/0"]}):
        restored = make()
        with pytest.raises(StateError, match=r"older or newer.*start from an older snapshot"):
            restored.restore_parts(mix)
        assert restored.key_count == 0
    for missing in ("meta", "hot/0"):
        with pytest.raises(StateError, match=f"{missing}' is missing"):
            make().restore_parts({name: part for name, part in late.items() if name != missing})
    spoilt = late["hot/0"][:100] + bytes([late["hot/0"][100] ^ 1]) + late["hot/0"][101:]
    with pytest.raises(StateError, match="checksum"):
        make().restore_parts(late | {"hot/0": spoilt})
    make().restore_parts(late | {"hot/77": b"left over from somebody else"})
