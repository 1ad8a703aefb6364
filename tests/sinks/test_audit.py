"""The audit chain: any change, removal or reordering is found; it goes on exactly where it was."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from alerts import make_alert
from hypothesis import given
from hypothesis import strategies as st

from sinks.audit import GENESIS, AuditChain, Head, Verifier, entry_hash
from sinks.records import AuditEntry

COUNT = 12


def chain(count: int = COUNT, partition: int = 0) -> list[bytes]:
    made = AuditChain(partition)
    return [
        msgspec.json.encode(made.append("alert", make_alert(at, sentence=f"alert {at}"), at))
        for at in range(count)
    ]


def verify(values: list[bytes], partition: int = 0) -> Verifier:
    verifier = Verifier()
    for at, value in enumerate(values):
        verifier.add(value, partition, f"line {at}")
    return verifier


def decode(value: bytes) -> AuditEntry:
    return msgspec.json.decode(value, type=AuditEntry)


def kinds(verifier: Verifier) -> set[str]:
    return {fault.kind for fault in verifier.faults}


def test_a_whole_chain_holds_and_begins_at_zero() -> None:
    values = chain()
    verifier = verify(values)
    assert verifier.faults == []
    first = msgspec.json.decode(values[0], type=AuditEntry)
    assert (first.sequence, first.previous) == (0, GENESIS)
    assert verifier.heads == [
        Head(partition=0, entries=COUNT, hash=msgspec.json.decode(values[-1], type=AuditEntry).hash)
    ]


@given(st.integers(0, COUNT - 1), st.integers(0, 3000), st.integers(0, 255))
def test_any_changed_byte_is_found(entry: int, at: int, replacement: int) -> None:
    values = chain()
    changed = bytearray(values[entry])
    at %= len(changed)
    if changed[at] == replacement:
        return
    changed[at] = replacement
    # Another spelling of the same JSON outside the record says the same.
    try:
        same = msgspec.json.decode(changed, type=AuditEntry) == msgspec.json.decode(
            values[entry], type=AuditEntry
        )
    except (msgspec.MsgspecError, UnicodeError):
        same = False
    values[entry] = bytes(changed)
    assert bool(verify(values).faults) is not same


@given(st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=COUNT - 1, unique=True))
def test_any_removal_is_found(removed: list[int]) -> None:
    values = chain()
    whole = verify(values)
    kept = [value for at, value in enumerate(values) if at not in removed]
    verifier = verify(kept)
    verifier.compare_heads({head.partition: head for head in whole.heads})
    expected = {"cut_off"} if COUNT - 1 in removed else set()
    if set(removed) - set(range(COUNT - len(removed), COUNT)):
        expected |= {"removed"}
    assert kinds(verifier) == expected


@given(st.permutations(range(COUNT)))
def test_any_reordering_is_found(order: list[int]) -> None:
    values = chain()
    verifier = verify([values[at] for at in order])
    assert bool(verifier.faults) is (order != sorted(order))


@given(st.lists(st.integers(0, COUNT - 1), max_size=6))
def test_what_a_replaced_worker_wrote_again_is_no_fault(again: list[int]) -> None:
    values = chain()
    verifier = verify(values + [values[at] for at in again])
    assert (verifier.faults, verifier.repeated) == ([], len(again))


def test_a_forged_continuation_a_fork_and_a_foreign_entry_are_found() -> None:
    values = chain()
    entry = msgspec.json.decode(values[4], type=AuditEntry)
    forged = msgspec.structs.replace(entry, record=msgspec.Raw(b'{"sentence":"nothing happened"}'))
    sealed = msgspec.structs.replace(forged, hash=entry_hash(forged))
    replaced = [*values[:4], msgspec.json.encode(sealed), *values[5:]]
    assert kinds(verify(replaced)) == {"changed"}, "the next entry follows another"
    assert kinds(verify([*values, msgspec.json.encode(sealed)])) == {"forked"}
    assert kinds(verify(values, partition=1)) == {"misplaced"}
    assert "malformed" in kinds(verify([*values, b"junk", b""]))


def test_chains_of_partitions_are_apart_and_their_heads_are_compared() -> None:
    verifier = Verifier()
    for value, other in zip(chain(), chain(partition=3), strict=True):
        verifier.add(value, 0, "a")
        verifier.add(other, 3, "b")
    assert verifier.faults == []
    heads = {head.partition: head for head in verifier.heads}
    assert heads[0].hash != heads[3].hash
    verifier.compare_heads({0: heads[0], 3: msgspec.structs.replace(heads[3], hash=heads[0].hash)})
    assert [(fault.kind, fault.partition) for fault in verifier.faults] == [("cut_off", 3)]


@pytest.mark.parametrize("cut", [0, 1, 5, COUNT])
def test_a_restored_chain_makes_the_same_entries(cut: int) -> None:
    first, second = AuditChain(2), AuditChain(2)
    whole = AuditChain(2)

    def run(of: AuditChain, numbers: range) -> list[AuditEntry]:
        return [of.append("alert", make_alert(at), at) for at in numbers]

    made = run(first, range(cut))
    second.restore(first.dump())
    assert made + run(second, range(cut, COUNT)) == run(whole, range(COUNT))


def test_a_damaged_head_is_refused() -> None:
    damaged: Any = b"\x00"
    with pytest.raises(msgspec.MsgspecError):
        AuditChain().restore(damaged)
