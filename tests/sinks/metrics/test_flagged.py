"""Flagged keys keep their budget, the most suspicious first, and leave when their time is over."""

from __future__ import annotations

from typing import Any

import msgspec
from alerts import make_alert
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest

from detectors.alert import LEVELS
from sinks.metrics import catalogue
from sinks.metrics.flagged import FlaggedKeys
from sinks.metrics.instruments import Instruments

BUDGET = 3
LIFETIME_MS = 1000


def alert(number: int, level: str = "notice", evidence: float = 1.0, **more: Any) -> Any:
    fields = {"key": f"k0-{number:032x}", "level": level, "e_value_log10": evidence} | more
    return msgspec.structs.replace(make_alert(), **fields)


def shown(instruments: Instruments) -> dict[str, float]:
    (family,) = [f for f in instruments.registry.collect() if f.name == catalogue.FLAGGED_KEY_LEVEL.name]
    return {sample.labels["key_ref"]: sample.value for sample in family.samples}


def made() -> tuple[Instruments, FlaggedKeys]:
    instruments = Instruments("worker")
    return instruments, FlaggedKeys(instruments, budget=BUDGET, lifetime_ms=LIFETIME_MS)


def test_a_level_rises_in_one_series_and_the_first_family_stays() -> None:
    instruments, flagged = made()
    flagged.flag(alert(1), partition=0, time_ms=0)
    flagged.flag(alert(1, "critical", families=("rate",)), partition=0, time_ms=1)
    flagged.flag(alert(1, "warning", families=("river",)), partition=0, time_ms=2)
    assert shown(instruments) == {f"k0-{1:032x}": 3}
    assert b'family="rate"' in generate_latest(instruments.registry)


def test_what_a_key_holds_is_a_flag_of_its_own() -> None:
    instruments, flagged = made()
    flagged.flag(alert(1, "critical"), partition=0, time_ms=0)
    flagged.flag(alert(1, "warning", families=("budget",)), partition=0, time_ms=0)
    assert len(flagged) == 2
    flagged.forgive(f"k0-{1:032x}", None)
    assert not shown(instruments)


def test_synthetic_keys_are_not_shown() -> None:
    instruments, flagged = made()
    flagged.flag(alert(1, key=f"k65535-{1:032x}"), partition=0, time_ms=0)
    assert not shown(instruments)


def test_flags_end_and_go_with_their_partition() -> None:
    instruments, flagged = made()
    flagged.flag(alert(1), partition=0, time_ms=0)
    flagged.flag(alert(2), partition=1, time_ms=500)
    flagged.expire(LIFETIME_MS)
    assert list(shown(instruments)) == [f"k0-{2:032x}"]
    flagged.give_up({1})
    assert not shown(instruments)
    flagged.flag(alert(1), partition=0, time_ms=0)
    assert len(flagged) == 1


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(LEVELS), st.floats(0, 9)), max_size=40))
def test_never_more_than_the_budget_and_none_left_out_that_is_worse(
    found: list[tuple[int, str, float]],
) -> None:
    instruments, flagged = made()
    worst: dict[str, int] = {}
    for number, level, evidence in found:
        flagged.flag(alert(number, level, evidence), partition=0, time_ms=0)
        rank = LEVELS.index(level) + 1
        worst[f"k0-{number:032x}"] = max(worst.get(f"k0-{number:032x}", 0), rank)
    levels = shown(instruments)
    assert len(levels) == len(flagged) <= BUDGET
    if len(worst) <= BUDGET:
        assert levels == worst
    else:
        assert min(levels.values()) >= sorted(worst.values())[-BUDGET]
        assert instruments.value(catalogue.FLAGGED_KEYS_LEFT_OUT) > 0
