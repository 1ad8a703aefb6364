"""Simulated traffic is real, reproducible and according to plan."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sinks.records import ServingEvent
from sinks.serving.keyref import key_reference
from streams.samples import load_sample
from streams.simulate import ATTACK_SHARE, Plan, Simulation, SimulationError

if TYPE_CHECKING:
    from streams.traces import KeyTrace

_decode = msgspec.json.Decoder(ServingEvent).decode


@lru_cache(maxsize=1)
def sample() -> list[KeyTrace]:
    return load_sample()


def simulate(**plan: Any) -> tuple[Simulation, list[ServingEvent]]:
    simulation = Simulation(Plan(**plan), sample())
    return simulation, [_decode(value) for _, value in simulation.events()]


@settings(max_examples=15, deadline=None)
@example(events=268, seed=25842345, speed=1.0, attacks=None)
@example(events=10, seed=0, speed=1.0, attacks=None)
@given(
    events=st.integers(1, 3000),
    seed=st.integers(0, 2**63),
    speed=st.floats(0.01, 1e6),
    attacks=st.sampled_from([None, (), ("jbda",), ("uniform", "jbda")]),
)
def test_a_plan_is_kept(events: int, seed: int, speed: float, attacks: tuple[str, ...] | None) -> None:
    simulation, made = simulate(
        events=events, seed=seed, speed=speed, attacks=attacks, start_ms=1_800_000_000_000
    )
    assert len(made) == len(simulation) == events
    assert made[0].time_ms == 1_800_000_000_000
    assert all(a.time_ms <= b.time_ms for a, b in pairwise(made))
    assert made[-1].time_ms - made[0].time_ms == simulation.duration_ms
    labels = {label.key: label for label in simulation.labels()}
    assert {key: label.queries for key, label in labels.items()} == Counter(event.key for event in made)
    hostile = sum(label.queries for label in labels.values() if label.kind == "attack")
    assert hostile <= max(events * ATTACK_SHARE, 1)
    assert {label.name for label in labels.values() if label.kind == "attack"} <= set(
        attacks or labels_of_all()
    )


def labels_of_all() -> set[str]:
    return {str(trace.attack) for trace in sample() if trace.attack}


def test_the_same_plan_makes_the_same_bytes_and_another_seed_other_keys() -> None:
    def run(seed: int) -> list[tuple[str, bytes]]:
        return list(Simulation(Plan(events=2000, seed=seed), sample()).events())

    one = run(1)
    assert one == run(1)
    assert not {key for key, _ in one} & {key for key, _ in run(2)}


def test_sketches_and_answers_are_those_recorded() -> None:
    simulation, made = simulate(events=500, attacks=("jbda",), personas=("poller",), seed=3)
    key = next(key for key in simulation.keys if key.trace.attack == "jbda")
    sent = [event for event in made if event.key == key.reference]
    recorded = next(trace for trace in sample() if trace.attack == "jbda").events()
    assert len(sent) > 50
    for event, original in zip(sent, recorded, strict=False):
        assert msgspec.structs.replace(event, key=original.key, time_ms=original.time_ms) == original


def test_all_attacks_take_part_and_are_spread_out() -> None:
    simulation, made = simulate(events=20_000)
    attacks = [label for label in simulation.labels() if label.kind == "attack"]
    assert {label.name for label in attacks} == labels_of_all()
    place = {key: made.index(next(e for e in made if e.key == key)) for key in (a.key for a in attacks)}
    gaps = np.diff(sorted(place.values()))
    assert gaps.min() > 500


def test_more_keys_than_the_sample_holds_are_told_apart() -> None:
    simulation, made = simulate(events=50_000, benign_keys=300, attacks=())
    assert len(simulation.labels()) == 300
    assert len({event.key for event in made}) == 300
    assert len(made) < 50_001


def test_speed_divides_the_gaps() -> None:
    slow, _ = simulate(events=1000, speed=1.0)
    fast, _ = simulate(events=1000, speed=60.0)
    assert fast.duration_ms == pytest.approx(slow.duration_ms / 60, abs=1)


def test_references_are_hmacs_under_the_given_secret() -> None:
    secret = bytes(range(32))
    simulation, _ = simulate(events=100, seed=5, secret=secret, epoch=7)
    assert simulation.keys[0].reference == key_reference("simulated-5-0", secret, 7)


def test_unknown_names_and_no_traffic_are_errors() -> None:
    with pytest.raises(SimulationError, match=r"--attacks: no attack 'jbd'\. Choose from .*jbda"):
        Simulation(Plan(events=1, attacks=("jbd",)), sample())
    with pytest.raises(SimulationError, match="--personas: no persona"):
        Simulation(Plan(events=1, personas=("nobody",)), sample())
    only_benign = [trace for trace in sample() if trace.attack is None]
    with pytest.raises(SimulationError, match="no key is left"):
        Simulation(Plan(events=1, personas=(), attacks=()), [replace(t, persona=None) for t in only_benign])
