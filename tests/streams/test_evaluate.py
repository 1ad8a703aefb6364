"""The protocol: who calibrates, where alarms are placed, what is counted, and that runs are identical."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from detectors.alert import Alert, Level, alert_id
from streams.cli.evaluate import command
from streams.evaluate import (
    EvaluationError,
    calibrate,
    choose_live,
    evaluate,
    evaluate_live,
    is_reference,
    to_run,
)
from streams.outcomes import DAY_MS, Findings, alarmed_days
from streams.traces import WEEK_START_MS, KeyTrace, interleave, read_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from streams.report import Outcome, Report

MINUTE_MS = 60_000
CENTRES = np.random.default_rng(0).standard_normal((4, 32))


def near_centres(count: int, rng: np.random.Generator, *, far: bool = False) -> dict[str, NDArray[Any]]:
    """Queries around four centres, answered with confidence; or far from them all, without."""
    classes = rng.integers(0, 4, count)
    sketch = CENTRES[classes] * (6.0 if far else 1.0) + 0.3 * rng.standard_normal((count, 32))
    top1 = rng.uniform(0.3, 0.5, count) if far else rng.uniform(0.9, 1.0, count)
    return {
        "xs": sketch.astype(np.float16),
        "es": np.abs(sketch[:, ::-1]).astype(np.float16),
        "cls": classes.astype(np.uint8),
        "top1": top1.astype(np.float16),
        "margin": (2 * top1 - 1).clip(0, 1).astype(np.float16),
        "ent": (1 - top1).astype(np.float16),
    }


def save(path: Path, meta: dict[str, Any], **columns: NDArray[Any]) -> None:
    np.savez(path, allow_pickle=False, meta=np.array(json.dumps(meta)), **columns)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One victim: 40 benign keys, cover traffic, an attack, a mix of both and a split over two keys."""
    target = tmp_path_factory.mktemp("traces")
    rng = np.random.default_rng(5)

    def benign(keys: int) -> dict[str, NDArray[Any]]:
        key = np.repeat(np.arange(keys), 60)
        return near_centres(len(key), rng) | {
            "key": key.astype(np.uint16),
            "t": (np.tile(np.arange(60), keys) * 10 * MINUTE_MS + key * 977).astype(np.uint32),
            "persona": (key % 2).astype(np.uint8),
            "personas": np.array(["clean", "retry"]),
        }

    save(target / "toy__benign__s1.npz", {"kind": "benign"}, **benign(40))
    save(target / "toy__benign__s601.npz", {"kind": "benign"}, **benign(2))
    times = (np.arange(200) * MINUTE_MS).astype(np.uint32)
    save(target / "toy__far__s1.npz", {"kind": "attack"}, t=times, **near_centres(200, rng, far=True))
    half = np.arange(200) % 2
    save(
        target / "derived__toy__mix50_far.npz",
        {"kind": "mix"},
        files=np.array(["toy__far__s1", "toy__benign__s601"]),
        fi=half.astype(np.uint8),
        row=(np.arange(200) // 2).astype(np.uint32),
        key=np.zeros(200, np.uint16),
        t=times,
        is_attack=half == 0,
    )
    save(
        target / "derived__toy__sybil2_far.npz",
        {"kind": "sybil"},
        files=np.array(["toy__far__s1"]),
        fi=np.zeros(200, np.uint8),
        row=np.arange(200, dtype=np.uint32),
        key=half.astype(np.uint16),
        t=times,
        is_attack=np.ones(200, np.bool_),
    )
    return target


@pytest.fixture(scope="module")
def traces(folder: Path) -> list[KeyTrace]:
    return read_folder(folder)


@pytest.fixture(scope="module")
def report(traces: list[KeyTrace]) -> Report:
    return evaluate(traces)


def alert_at(traces: Sequence[KeyTrace], index: int, query: int, level: Level, subject: Any = "key") -> Alert:
    """Make the alert that the `query`-th query of a trace would complete."""
    batch = interleave(traces)
    own = np.flatnonzero(batch.key[:, 0] == traces[index].key[0])
    offset = int(own[query - 1])
    return Alert(
        alert_id=alert_id("events", 0, offset, level),
        time_ms=int(batch.time_ms[offset]),
        subject=subject,
        key=traces[index].key_reference,
        model="toy",
        level=level,
        key_p_value=0.001,
        e_value_log10=3.0,
        extrapolated=False,
        families=("out_of_distribution",) if level == "notice" else ("boundary", "rate"),
        evidence=(),
        features=(),
        techniques=(),
        query_count=0,
        topic="events",
        partition=0,
        offset=offset,
        first_offset=0,
        code_version="test",
        reference_version="test",
        would_not_have_fired="",
        sentence=f"{level} at {query}",
    )


def from_source(traces: Sequence[KeyTrace], source: str) -> list[KeyTrace]:
    return [trace for trace in traces if trace.source == source]


def by_budget(outcomes: Sequence[Outcome], number: int = 0) -> dict[str, Outcome]:
    return {outcome.budget: outcome for outcome in outcomes if outcome.number == number}


def test_only_even_benign_keys_calibrate(traces: list[KeyTrace]) -> None:
    chosen = [trace for trace in traces if is_reference(trace)]
    assert {trace.number for trace in chosen} == set(range(0, 40, 2))
    assert {trace.source for trace in chosen} == {"toy__benign__s1"}
    run = to_run(traces)
    assert not {id(trace) for trace in run} & {id(trace) for trace in chosen}
    assert {trace.number for trace in run if trace.kind == "benign"} == set(range(1, 40, 2))


def test_the_halves_can_be_exchanged(traces: list[KeyTrace]) -> None:
    measured = [trace for trace in to_run(traces, "odd") if trace.kind == "benign"]
    assert {trace.number for trace in measured} == set(range(0, 40, 2))
    assert not any(is_reference(trace, "odd") for trace in measured)
    report = evaluate(traces, half="odd")
    assert report.calibrated_on == "odd"
    assert {o.number % 2 for o in report.traces if o.kind == "benign"} == {0}
    assert calibrate(traces, "odd")["toy"].version != calibrate(traces)["toy"].version


def test_no_measured_key_can_move_a_threshold(traces: list[KeyTrace]) -> None:
    """The leak test: whatever measured, cover and attack keys hold, the references stay the same."""
    before = calibrate(traces)["toy"].version

    def spoil(trace: KeyTrace) -> KeyTrace:
        return replace(trace, input_sketch=trace.input_sketch * -3, margin=trace.margin * 0)

    spoilt = [trace if is_reference(trace) else spoil(trace) for trace in traces]
    assert calibrate(spoilt)["toy"].version == before
    leaked = [spoil(trace) if trace.number == 2 else trace for trace in traces]
    assert calibrate(leaked)["toy"].version != before


def test_first_alarm_is_the_first_alert_that_counts_for_the_budget(traces: list[KeyTrace]) -> None:
    attack = from_source(traces, "toy__far__s1")
    alerts = [alert_at(attack, 0, 7, "notice"), alert_at(attack, 0, 31, "warning")]
    found = by_budget(Findings(attack, alerts).outcomes())
    assert [found[budget].first_alarm_query for budget in ("1 %", "0.1 %", "critical")] == [7, 31, None]
    assert found["1 %"].families == ("out_of_distribution",)
    assert found["1 %"].families_ever == ("boundary", "out_of_distribution", "rate")
    assert found["0.1 %"].families_ever == ("boundary", "rate")
    assert found["0.1 %"].delay_ms == 30 * MINUTE_MS
    assert found["critical"].sentence is None


def test_mix_counts_attack_queries_up_to_the_alarm(traces: list[KeyTrace]) -> None:
    mix = from_source(traces, "derived__toy__mix50_far")
    outcome = by_budget(Findings(mix, [alert_at(mix, 0, 10, "notice")]).outcomes())["1 %"]
    assert (outcome.first_alarm_query, outcome.first_alarm_attack_query) == (10, 5)
    assert outcome.attack_queries == 100


def test_split_counts_keys_and_queries_in_all(traces: list[KeyTrace]) -> None:
    split = from_source(traces, "derived__toy__sybil2_far")
    key_alert = alert_at(split, 1, 20, "notice")
    found = {file.budget: file for file in Findings(split, [key_alert]).file_outcomes()}
    assert (found["1 %"].keys, found["1 %"].keys_alarmed, found["1 %"].median_alarm_query) == (2, 1, 20)
    # Twenty of the second key came after twenty of the first: round robin.
    assert found["1 %"].first_alarm_query_in_all == 40
    assert found["1 %"].first_linked_alarm_query_in_all is None
    assert found["0.1 %"].keys_alarmed == 0
    campaign = alert_at(split, 0, 30, "warning", subject="campaign")
    linked = {file.budget: file for file in Findings(split, [key_alert, campaign]).file_outcomes()}
    assert linked["0.1 %"].first_linked_alarm_query_in_all == 59
    assert linked["1 %"].keys_alarmed == 1


def test_linked_keys_are_counted_alone_and_among_customers(traces: list[KeyTrace], report: Report) -> None:
    split = from_source(traces, "derived__toy__sybil2_far")
    customers = [trace for trace in to_run(traces) if trace.kind == "benign"]
    run = [*split, *customers]
    members = tuple(trace.key_reference for trace in [*split, customers[0]])
    campaign = msgspec.structs.replace(alert_at(run, 0, 30, "warning", subject="campaign"), members=members)
    among = Findings(run, [campaign]).linked_of(split[0].source, "0.1 %")
    assert (among.keys_linked, among.strangers_linked) == (2, 1)
    # Only the split's own queries count: thirty of the first key and the second's that came before.
    assert among.first_linked_alarm_query_in_all == 59
    assert Findings(run, [campaign]).linked_of(split[0].source, "critical").keys_linked == 0
    (false,) = [f for f in Findings(customers, [campaign]).false_campaigns() if f.budget == "1 %"]
    assert (false.keys, false.alarms) == (len(customers), 1)
    assert {(file.kind == "split") == (file.among_customers is not None) for file in report.files} == {True}
    # These customers ask for the same things in equal volumes: no attack, and counted as a false alarm.
    assert [count.alarms > 0 for count in report.false_campaigns] == [True] * 3


def test_report_has_one_object_per_trace_and_budget(traces: list[KeyTrace], report: Report) -> None:
    objects = [(o.source, o.number, o.budget) for o in report.traces]
    assert len(objects) == len(set(objects)) == 3 * len(to_run(traces))
    assert {file.source for file in report.files} == {
        "derived__toy__mix50_far",
        "derived__toy__sybil2_far",
        "toy__far__s1",
    }
    (note,) = report.references
    assert (note.keys, note.events) == (20, 1200)


def test_obvious_attack_is_found_and_ordinary_keys_are_left_alone(report: Report) -> None:
    found = {(file.source, file.budget): file for file in report.files}
    alarm = found["toy__far__s1", "0.1 %"].median_alarm_query
    assert alarm is not None
    assert alarm <= 100
    assert found["toy__far__s1", "1 %"].families
    assert found["derived__toy__sybil2_far", "1 %"].keys_alarmed == 2
    shares = {(share.persona, share.budget): share for share in report.benign}
    assert shares[None, "1 %"].keys == 20
    assert shares["retry", "1 %"].keys == 20
    assert shares[None, "1 %"].alarmed <= 2
    assert shares[None, "critical"].alarmed == 0


def test_two_runs_are_identical_to_the_byte(traces: list[KeyTrace], report: Report) -> None:
    assert evaluate(traces).dump() == report.dump()


def test_live_run_starts_cold_and_counts_by_day(traces: list[KeyTrace]) -> None:
    chosen = choose_live(traces, ["far"])
    assert {trace.kind for trace in chosen} == {"benign", "attack"}
    assert sum(trace.kind == "benign" for trace in chosen) == 40
    live = evaluate_live(chosen)
    assert live.mode == "live"
    assert live.references == ()
    assert {count.day for count in live.days} == {1}
    alarmed = sum(
        o.kind == "benign" and o.first_alarm_query is not None for o in live.traces if o.budget == "1 %"
    )
    assert sum(count.benign_keys_alarmed for count in live.days if count.budget == "1 %") == alarmed
    assert live.dump() == evaluate_live(chosen).dump()


def test_false_alarms_stand_on_the_day_they_were_raised(traces: list[KeyTrace]) -> None:
    benign = [trace for trace in traces if trace.kind == "benign"][:2]
    late = replace(benign[1], time_ms=benign[1].time_ms + 2 * DAY_MS)
    keys = [benign[0], late]
    counts = {
        (c.day, c.budget): c.benign_keys_alarmed
        for c in alarmed_days(Findings(keys, [alert_at(keys, 1, 3, "notice")]))
    }
    assert int(late.time_ms[2] - WEEK_START_MS) // DAY_MS == 2
    assert [counts[day, "1 %"] for day in (1, 2, 3)] == [0, 0, 1]
    assert counts[3, "0.1 %"] == 0


def test_unknown_attack_is_refused_with_the_known_names(traces: list[KeyTrace]) -> None:
    with pytest.raises(
        EvaluationError, match=r"--attacks near\*: matches no attack\. Choose from far, mix50_far"
    ):
        choose_live(traces, ["near*"])


def test_victim_without_reference_keys_is_refused(traces: list[KeyTrace]) -> None:
    orphans = [replace(trace, victim="orphan") for trace in from_source(traces, "toy__far__s1")]
    with pytest.raises(EvaluationError, match="victim orphan: fewer than 2 benign keys"):
        evaluate([*traces, *orphans])


def test_command_prints_the_scoreboard_and_writes_the_report(
    folder: Path, tmp_path: Path, report: Report
) -> None:
    target = tmp_path / "reports" / "out.json"
    result = CliRunner().invoke(command, [str(folder), "--report", str(target)])
    assert result.exit_code == 0, result.output
    assert target.read_bytes() == report.dump()
    for words in ("Benign keys of toy", "retry", "mix50_far", "sybil2_far", "families"):
        assert words in result.stdout
    data = CliRunner().invoke(command, [str(folder), "-o", "json"])
    assert json.loads(data.stdout) == json.loads(report.dump())


def test_command_refuses_attacks_without_live(folder: Path) -> None:
    result = CliRunner().invoke(command, [str(folder), "--attacks", "far"])
    assert result.exit_code == 2
    assert "--attacks goes with --live" in result.stderr
