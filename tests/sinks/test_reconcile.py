"""Commands that are not acknowledged are sent again; the topic's last word is put right."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from signed import KEY, NOW_MS, TRUSTED, signed

from sinks.reconcile import Reconciler
from sinks.records import Acknowledgement, Command
from sinks.serving.commands import CommandTable

PLACE = f"{KEY}/digits".encode()
LIMIT_MS = 1_000


class Record(NamedTuple):
    value: bytes | None
    key: bytes | None = PLACE
    partition: int = 3
    timestamp: int = NOW_MS
    headers: tuple[tuple[str, bytes], ...] = (("id", b"x"),)


def make() -> Reconciler:
    return Reconciler(CommandTable(TRUSTED), LIMIT_MS)


def ack(sequence: int = 1, **fields: Any) -> bytes:
    usual: dict[str, Any] = {"command_id": f"{sequence:032x}", "enforcer": "serving-0", "outcome": "enforced"}
    return msgspec.json.encode(Acknowledgement(**({"time_ms": NOW_MS + 40} | usual | fields)))


def due(reconciler: Reconciler, at_ms: int) -> list[bytes]:
    return [word.value for word in reconciler.due(NOW_MS + at_ms)]


def test_a_command_nobody_acknowledges_is_sent_again_ever_more_slowly() -> None:
    reconciler = make()
    reconciler.take_command(Record(signed()), NOW_MS)
    assert due(reconciler, 999) == []
    [word] = reconciler.due(NOW_MS + 1_000)
    assert (word.value, word.partition, word.topic_key) == (signed(), 3, PLACE)
    sent = [at for at in range(1_001, 20_000) if due(reconciler, at)]
    assert sent == [3_000, 7_000, 15_000]
    assert reconciler.unacknowledged(NOW_MS + 20_000) == {"suspend": (1, 20.0)}
    reconciler.take_acknowledgement(ack())
    assert due(reconciler, 3_000_000) == []
    assert reconciler.unacknowledged(NOW_MS + 20_000) == {}
    assert reconciler.latencies_ms == [40]


def test_repeats_are_dropped_and_an_early_acknowledgement_counts() -> None:
    reconciler = make()
    for _ in range(3):
        reconciler.take_acknowledgement(ack())
    reconciler.take_acknowledgement(ack(enforcer="serving-1", time_ms=NOW_MS + 90))
    reconciler.take_acknowledgement(b"nonsense")
    reconciler.take_command(Record(signed()), NOW_MS)
    assert due(reconciler, 5_000) == []
    assert reconciler.latencies_ms == [40], "the first of them"
    assert reconciler.counts == {"enforced": 2, "repeated": 2, "malformed": 1}


def test_what_is_over_restored_or_refused_is_not_sent_again() -> None:
    reconciler = make()
    reconciler.take_command(Record(signed()), NOW_MS)
    reconciler.take_acknowledgement(ack(outcome="refused", reason="allowlisted"))
    assert due(reconciler, 5_000) == []
    reconciler.take_command(Record(signed(sequence=2, expires_ms=NOW_MS + 2_000)), NOW_MS)
    assert due(reconciler, 2_000) == []
    assert reconciler.unacknowledged(NOW_MS + 2_000) == {}


def test_a_command_that_is_read_when_it_is_over_was_the_last_word_all_the_same() -> None:
    reconciler = make()
    reconciler.take_command(Record(signed()), NOW_MS)
    reconciler.take_command(Record(signed(sequence=2, expires_ms=NOW_MS)), NOW_MS)
    assert due(reconciler, 100_000) == []


def test_the_last_valid_command_is_written_again_over_whatever_hides_it() -> None:
    for hiding in (None, b"nonsense", signed()):
        reconciler = make()
        restore = signed(sequence=2, action="restore")
        reconciler.take_command(Record(signed()), NOW_MS)
        reconciler.take_command(Record(restore), NOW_MS)
        reconciler.take_acknowledgement(ack(2))
        assert due(reconciler, 0) == []
        reconciler.take_command(Record(hiding), NOW_MS)
        assert due(reconciler, 0) == [restore]
        reconciler.take_command(Record(restore), NOW_MS)
        assert due(reconciler, 0) == [], "and once is enough"
    assert reconciler.counts["rewritten"] == 1


@given(st.lists(st.integers(0, 7), max_size=40))
def test_a_new_enforcer_sees_the_last_valid_command_whatever_was_written(plan: list[int]) -> None:
    """A compacted topic, honest commands in order, and somebody who writes old and false ones between."""
    topic: dict[bytes, bytes | None] = {}
    reconciler = make()
    history: list[bytes] = []

    def write(value: bytes | None) -> None:
        topic[PLACE] = value
        reconciler.take_command(Record(value), NOW_MS + 100)

    for choice in plan:
        if choice >= 5:
            action = "suspend" if choice == 5 else "restore"
            at = len(history) + 1
            history.append(signed(sequence=at, action=action, issued_ms=NOW_MS + at))
            write(history[-1])
        elif choice == 4:
            write(None)
        elif choice == 3:
            write(b"nonsense")
        elif history:
            write(history[choice % len(history)])
    for _ in range(2):
        for word in list(reconciler.due(NOW_MS + 200)):
            write(word.value)
    late = CommandTable(TRUSTED)
    late.apply(topic.get(PLACE), NOW_MS + 200)
    last = [msgspec.json.decode(value, type=Command) for value in history[-1:]]
    standing = [one.command for one in late.lookup(KEY, "digits", None, NOW_MS + 300)]
    assert standing == [command for command in last if command.action == "suspend"]
