"""The pipeline on real traffic: a copied model is found, answered as the mode allows, and state goes on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from detectors.calibration import fit_reference
from sinks.policyfile import load_policy
from sinks.policytopic import PolicyInForce
from sinks.records import Feedback
from sinks.signing import generate_key, load_signer, verify
from streams.bus.base import Message
from streams.clock import ManualClock
from streams.codec import encode_event
from streams.errors import PolicyError, SettingsError, StateVersionError, TooManyDeadLetters
from streams.pipeline import Outputs, Pipeline, build_pipeline, load_references
from streams.samples import load_sample
from streams.settings import DeadLetterSettings, Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from detectors.reference import ModelReference
    from streams.traces import KeyTrace

TOPIC = "modelwarden.events"


@pytest.fixture(scope="module")
def traces() -> list[KeyTrace]:
    return [trace for trace in load_sample() if trace.victim == "mnist"]


@pytest.fixture(scope="module")
def references(traces: list[KeyTrace]) -> Mapping[str, ModelReference]:
    benign = [trace.batch() for trace in traces if trace.attack is None]
    return {"mnist": fit_reference("mnist", benign)}


@pytest.fixture(scope="module")
def attack(traces: list[KeyTrace]) -> KeyTrace:
    return next(trace for trace in traces if trace.attack == "uniform")


@pytest.fixture(scope="module")
def stream(attack: KeyTrace) -> list[Message]:
    return [
        Message(topic=TOPIC, partition=0, offset=at, value=encode_event(event))
        for at, event in enumerate(attack.events())
    ]


def together(parts: Iterable[Outputs]) -> Outputs:
    whole = Outputs()
    for part in parts:
        whole.alerts += part.alerts
        whole.decisions += part.decisions
        whole.commands += part.commands
        whole.audit += part.audit
        whole.notices += part.notices
        whole.rejections += part.rejections
        whole.events += part.events
    return whole


def history(references: Mapping[str, ModelReference], **fields: object) -> Pipeline:
    return build_pipeline(msgspec.convert(fields, Settings), live=False, references=references)


def with_key(folder: Path, mode: str) -> Settings:
    path = folder / "signing.pem"
    if not path.exists():
        generate_key(path)
    return msgspec.structs.replace(Settings(), signing_key_file=path, policy_mode=mode)


def test_an_attack_is_found_and_only_watched_by_default(
    references: Mapping[str, ModelReference], stream: list[Message], attack: KeyTrace
) -> None:
    outputs = history(references).process(stream)
    assert outputs.events == len(attack)
    assert outputs.rejections == []
    assert {alert.key for alert in outputs.alerts} == {attack.key_reference}
    assert [decision.alert_id for decision in outputs.decisions] == [
        alert.alert_id for alert in outputs.alerts
    ]
    assert outputs.decisions[0].withheld == "mode observe"
    assert outputs.commands == []


def test_enforcing_sends_commands_that_verify(
    references: Mapping[str, ModelReference], stream: list[Message], tmp_path: Path
) -> None:
    settings = with_key(tmp_path, "enforce")
    outputs = build_pipeline(settings, live=False, references=references).process(stream)
    signer = load_signer(tmp_path / "signing.pem")
    assert outputs.commands
    assert outputs.commands == [decision.command for decision in outputs.decisions if decision.command]
    for command in outputs.commands:
        verify(command, {signer.key_id: signer.public_key})


@pytest.mark.parametrize("size", [1, 7, 100])
def test_any_cut_gives_the_same_and_a_restored_pipeline_goes_on(
    references: Mapping[str, ModelReference], stream: list[Message], tmp_path: Path, size: int
) -> None:
    settings = with_key(tmp_path, "enforce")
    stream = stream[:200]
    expected = build_pipeline(settings, live=False, references=references)
    whole = expected.process(stream)
    pipeline = build_pipeline(settings, live=False, references=references)
    parts = []
    for start in range(0, len(stream), size):
        parts.append(pipeline.process(stream[start : start + size]))
        if start in {0, 98, 100}:
            blob = pipeline.dump()
            pipeline = build_pipeline(settings, live=False, references=references)
            pipeline.restore(blob)
    assert together(parts) == whole
    assert whole.alerts
    assert pipeline.dump() == expected.dump()


def test_columns_and_messages_give_the_same_alerts(
    references: Mapping[str, ModelReference], stream: list[Message], attack: KeyTrace
) -> None:
    by_message = history(references).process(stream)
    by_column = history(references).process_batch(attack.batch(topic=TOPIC))
    assert by_message.alerts == by_column.alerts


def test_a_persons_word_restores_and_a_later_one_takes_it_back(
    references: Mapping[str, ModelReference], stream: list[Message], attack: KeyTrace, tmp_path: Path
) -> None:
    pipeline = build_pipeline(with_key(tmp_path, "enforce"), live=False, references=references)
    assert pipeline.process(stream[:200]).commands
    word = Feedback(
        key=attack.key_reference,
        verdict="honest",
        author="ana",
        reason="their own evaluation",
        time_ms=int(attack.time_ms[199]),
    )
    restored = pipeline.feedback(word)
    assert [command.action for command in restored.commands] == ["restore"]
    assert restored.decisions[0].command == restored.commands[0]
    assert pipeline.process(stream[200:500]).commands == []
    taken_back = pipeline.feedback(msgspec.structs.replace(word, verdict="guilty"))
    assert (taken_back.decisions, [entry.kind for entry in taken_back.audit]) == ([], ["feedback"])


def test_a_policy_can_be_replaced_while_running(
    references: Mapping[str, ModelReference], stream: list[Message], tmp_path: Path
) -> None:
    pipeline = build_pipeline(with_key(tmp_path, "observe"), live=False, references=references)
    pipeline.set_policy(PolicyInForce(policy=load_policy(None, "enforce")))
    assert pipeline.process(stream).commands
    unsigned = history(references)
    with pytest.raises(PolicyError, match="signing key"):
        unsigned.set_policy(PolicyInForce(policy=load_policy(None, "enforce")))
    assert unsigned.process(stream).commands == []


def test_live_traffic_may_not_be_ahead_of_the_clock(stream: list[Message], attack: KeyTrace) -> None:
    clock = ManualClock(int(attack.time_ms[0]))
    built = build_pipeline(Settings(), references={})
    pipeline = Pipeline(built.engine, built._policy, Settings(), clock)
    ahead = int((attack.time_ms[:500] > attack.time_ms[0] + 3_600_000).sum())
    assert len(pipeline.process(stream[:500]).rejections) == ahead
    assert {r.reason for r in pipeline.process(stream[:9], now_ms=0).rejections} == {"time_ahead"}
    assert build_pipeline(Settings(), live=False, references={}).process(stream[:9]).rejections == []


def test_too_many_dead_letters_stop_before_anything_is_in_the_state(stream: list[Message]) -> None:
    settings = Settings(dead_letters=DeadLetterSettings(max_share=0.1, window_events=10, max_consecutive=5))
    pipeline = build_pipeline(settings, references={})
    empty = pipeline.dump()
    bad = [msgspec.structs.replace(message, value=b"{") for message in stream[:5]]
    with pytest.raises(TooManyDeadLetters, match="5 of the last 20 messages"):
        pipeline.process(bad + stream[5:20])
    assert pipeline.dump() == empty


@pytest.mark.parametrize(
    "blob", [b"", b"junk", msgspec.msgpack.encode({"version": 2, "engine": b"", "policy": b""})]
)
def test_a_foreign_state_is_refused_with_what_to_do(blob: bytes) -> None:
    with pytest.raises(StateVersionError, match="deleting the state"):
        build_pipeline(Settings(), references={}).restore(blob)


def test_parts_of_an_earlier_version_are_refused_with_what_to_do() -> None:
    """They were written by the engine when its state had version 4: three keys, nine events."""
    parts = msgspec.msgpack.decode(
        (Path(__file__).parent / "golden" / "state-version-4.msgpack").read_bytes(), type=dict[str, bytes]
    )
    with pytest.raises(StateVersionError, match=r"of version 4.*Run the version.*or begin anew"):
        build_pipeline(Settings(), references={}).restore_parts(parts)


def test_parts_go_on_where_they_were_dumped_with_only_the_changed_ones_dumped_again(
    stream: list[Message], references: Mapping[str, ModelReference]
) -> None:
    pipeline = build_pipeline(Settings(), references=references)
    stored: dict[str, bytes] = {}
    for start in range(0, 900, 300):
        pipeline.process(stream[start : start + 300])
        stored |= dict(pipeline.dump_parts(changed_only=start > 0))
        stored = {name: stored[name] for name in pipeline.part_names}
    other = build_pipeline(Settings(), references=references)
    other.restore_parts(stored)
    assert other.dump() == pipeline.dump()
    assert other.process(stream[900:1200]) == pipeline.process(stream[900:1200])


def test_references_are_read_from_a_file_or_a_folder(
    references: Mapping[str, ModelReference], tmp_path: Path
) -> None:
    folder = tmp_path / "references"
    folder.mkdir()
    with pytest.raises(SettingsError, match=r"it has no \*\.reference"):
        load_references(folder)
    file = folder / "digits.reference"
    file.write_bytes(references["mnist"].dump())
    for path in (file, folder):
        assert load_references(path)["mnist"].version == references["mnist"].version
    damaged = tmp_path / "damaged.reference"
    damaged.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(SettingsError, match=r"damaged\.reference: .*checksum"):
        load_references(damaged)
    with pytest.raises(SettingsError, match="No such file"):
        load_references(tmp_path / "absent")


def test_nothing_in_gives_nothing_out() -> None:
    assert build_pipeline(Settings(), references={}).process([]) == Outputs()
