"""The table of commands in force: what is obeyed, what is refused, and when it ends."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from signed import KEY, NOW_MS, OTHER_KEY, SIGNER, TRUSTED, make_command, signed

from sinks.allowlist import Allowlist
from sinks.records import Allow, Command
from sinks.serving.commands import MAX_COMMAND_BYTES, CommandTable
from sinks.signing import Signer
from sinks.trustedkeys import TrustedKeys, trust

HOUR_MS = 3_600_000
STRANGER = Signer(Ed25519PrivateKey.generate())


def actions(table: CommandTable, key: str = KEY, model: str = "digits", **at: Any) -> list[str]:
    found = table.lookup(key, model, at.get("tenant"), at.get("now_ms", NOW_MS + 1))
    return [standing.action for standing in found]


def tampered(**changes: Any) -> bytes:
    command = msgspec.json.decode(signed(), type=Command)
    return msgspec.json.encode(msgspec.structs.replace(command, **changes))


def test_a_command_holds_for_its_key_and_model_until_it_is_over() -> None:
    table = CommandTable(TRUSTED)
    assert table.apply(signed(), NOW_MS).outcome == "enforced"
    assert actions(table) == ["suspend"]
    assert actions(table, model="other") == []
    assert actions(table, key=OTHER_KEY) == []
    assert actions(table, now_ms=NOW_MS + HOUR_MS - 1) == ["suspend"]
    assert actions(table, now_ms=NOW_MS + HOUR_MS) == []
    assert [c.sequence for c in table.expire(NOW_MS + HOUR_MS)] == [1]
    assert len(table) == 0


@pytest.mark.parametrize(
    ("value", "refusal"),
    [
        (None, "malformed"),
        (b"", "malformed"),
        (b"\xff", "malformed"),
        (b"[" * 100_000, "malformed"),
        (b'{"schema":1}', "malformed"),
        (b" " * MAX_COMMAND_BYTES + signed(), "malformed"),
        (msgspec.json.encode(make_command()), "untrusted_key"),
        (signed(STRANGER), "untrusted_key"),
        (tampered(action="revoke"), "bad_signature"),
        (tampered(key=OTHER_KEY), "bad_signature"),
        (tampered(expires_ms=NOW_MS + 2 * HOUR_MS), "bad_signature"),
        (tampered(sequence=9), "bad_signature"),
        (tampered(tenant="acme"), "bad_signature"),
        (tampered(signature="AAAA"), "bad_signature"),
        (tampered(signature="nö"), "bad_signature"),
        (signed(tenant="other"), "foreign_tenant"),
        (signed(issued_ms=NOW_MS + 30_001), "issued_ahead"),
        (signed(action="throttle"), "unsupported"),
        (signed(action="throttle", parameters={"requests_per_minute": -1.0}), "unsupported"),
        (signed(parameters={"hours": 1.0}), "unsupported"),
    ],
)
def test_what_is_not_in_order_is_refused_by_name_and_not_obeyed(value: bytes | None, refusal: str) -> None:
    table = CommandTable(TRUSTED, tenants=["acme"])
    verdict = table.apply(value, NOW_MS)
    assert (verdict.outcome, verdict.refusal) == ("refused", refusal)
    assert len(table) == 0
    believed = refusal in {"foreign_tenant", "issued_ahead", "unsupported"}
    assert (verdict.command is not None) is believed, "nothing is believed that nobody trusted has signed"


def test_a_forger_who_names_a_trusted_key_is_refused() -> None:
    forged = msgspec.structs.replace(STRANGER.sign(make_command()), signing_key_id=SIGNER.key_id)
    verdict = CommandTable(TRUSTED).apply(msgspec.json.encode(forged), NOW_MS)
    assert verdict.refusal == "bad_signature"


def test_a_signer_speaks_only_for_its_tenants() -> None:
    [key] = TRUSTED.keys.values()
    table = CommandTable(TrustedKeys([msgspec.structs.replace(key, tenants=("acme",))]))
    assert table.apply(signed(tenant="other"), NOW_MS).refusal == "foreign_tenant"
    assert table.apply(signed(), NOW_MS).refusal == "foreign_tenant", "nor for all"
    assert table.apply(signed(tenant="acme"), NOW_MS).outcome == "enforced"
    assert actions(table, tenant="acme") == ["suspend"]
    assert actions(table, tenant="other") == [], "another tenant's call is not touched"
    assert actions(table, tenant=None) == ["suspend"]


def test_expired_commands_are_never_obeyed_and_clocks_may_differ_by_so_much() -> None:
    table = CommandTable(TRUSTED, max_skew_ms=5_000)
    late = table.apply(signed(expires_ms=NOW_MS), NOW_MS)
    assert (late.outcome, late.refusal) == ("expired", "expired")
    assert table.apply(signed(sequence=2, issued_ms=NOW_MS + 5_001), NOW_MS).refusal == "issued_ahead"
    assert table.apply(signed(sequence=3, issued_ms=NOW_MS + 5_000), NOW_MS).outcome == "enforced"
    assert table.apply(signed(key=OTHER_KEY), NOW_MS + HOUR_MS - 1).outcome == "enforced", "a slow clock"


def test_a_command_that_comes_too_late_still_ends_what_stood_before_it() -> None:
    """Else what a process enforces would depend on whether its topic was compacted."""
    table = CommandTable(TRUSTED)
    table.apply(signed(sequence=1, action="challenge"), NOW_MS)
    verdict = table.apply(signed(sequence=2, expires_ms=NOW_MS + 10), NOW_MS + 10)
    assert (verdict.outcome, [c.sequence for c in verdict.lifted]) == ("expired", [1])
    assert actions(table, now_ms=NOW_MS + 11) == []


def test_a_replay_is_refused_and_a_repeat_is_recognised() -> None:
    table = CommandTable(TRUSTED)
    first, restore = signed(sequence=1), signed(sequence=2, action="restore")
    table.apply(first, NOW_MS)
    assert table.apply(first, NOW_MS).outcome == "repeated"
    lifted = table.apply(restore, NOW_MS)
    assert [c.sequence for c in lifted.lifted] == [1]
    assert table.apply(first, NOW_MS).refusal == "replayed"
    assert table.apply(restore, NOW_MS).outcome == "repeated"
    assert actions(table) == []
    other = signed(sequence=2, command_id="c" * 32)
    assert table.apply(other, NOW_MS).refusal == "replayed", "one number, two commands"


def test_a_restore_stays_the_last_word_when_the_older_command_is_written_again_behind_it() -> None:
    """As a restarted process reads a compacted topic on which somebody replayed an old command."""
    table = CommandTable(TRUSTED)
    table.apply(signed(sequence=1, action="restore", model=None, issued_ms=NOW_MS + 10), NOW_MS + 20)
    assert table.apply(signed(sequence=2), NOW_MS + 20).refusal == "superseded"
    assert table.apply(signed(sequence=3, issued_ms=NOW_MS + 11), NOW_MS + 20).outcome == "enforced"


def test_keys_are_rotated_and_what_a_compromised_one_signed_ends_at_once() -> None:
    [old] = TRUSTED.keys.values()
    [new] = trust(STRANGER).keys.values()
    table = CommandTable(TRUSTED)
    table.apply(signed(), NOW_MS)
    table.trust(TrustedKeys([old, new]))
    assert table.apply(signed(STRANGER, key=OTHER_KEY), NOW_MS).outcome == "enforced"
    before = dt.datetime.fromtimestamp(NOW_MS / 1000, dt.UTC)
    table.trust(TrustedKeys([msgspec.structs.replace(old, not_after=before), new]))
    assert actions(table) == ["suspend"], "what was signed in time holds to its own end"
    assert table.apply(signed(sequence=2), NOW_MS).refusal == "untrusted_key"
    table.trust(TrustedKeys([msgspec.structs.replace(old, compromised=True), new]))
    assert (actions(table), actions(table, key=OTHER_KEY)) == ([], ["suspend"])


def test_a_key_for_policies_signs_no_commands() -> None:
    table = CommandTable(trust(SIGNER, ("policy", "operators")))
    assert table.apply(signed(), NOW_MS).refusal == "untrusted_key"


def test_a_restore_of_one_model_leaves_the_others_and_one_of_the_key_ends_all() -> None:
    table = CommandTable(TRUSTED)
    for sequence, model in enumerate(("digits", "census", None), 1):
        table.apply(signed(sequence=sequence, model=model), NOW_MS)
    assert actions(table) == ["suspend", "suspend"]
    table.apply(signed(sequence=4, action="restore"), NOW_MS)
    assert (actions(table), actions(table, model="census")) == (["suspend"], ["suspend", "suspend"])
    table.apply(signed(sequence=5, action="restore", model=None), NOW_MS)
    assert len(table) == 0


def test_the_strongest_comes_first_and_weaker_ones_still_hold() -> None:
    table = CommandTable(TRUSTED)
    table.apply(signed(sequence=1, action="coarsen", parameters={"decimals": 1.0}, model=None), NOW_MS)
    table.apply(signed(sequence=2, action="challenge"), NOW_MS)
    assert actions(table) == ["challenge", "coarsen"]
    table.released = frozenset({"challenge"})
    assert actions(table) == ["coarsen"]


def test_an_allowlisted_key_is_touched_by_nothing_even_by_what_already_stands() -> None:
    allowlist = Allowlist(TRUSTED)
    table = CommandTable(TRUSTED, allowlist=allowlist)

    def allow(key: str, sequence: int) -> None:
        entry = Allow(
            allow_id=f"{sequence:032x}",
            keys=(key,),
            purpose="evaluation",
            owner="ann",
            reason="a contract",
            issued_ms=NOW_MS,
            expires_ms=NOW_MS + 1_000,
            sequence=sequence,
        )
        allowlist.take(msgspec.json.encode(SIGNER.sign(entry)))

    allow(OTHER_KEY, 1)
    assert table.apply(signed(key=OTHER_KEY), NOW_MS).refusal == "allowlisted"
    table.apply(signed(), NOW_MS)
    assert actions(table) == ["suspend"]
    allow(KEY, 2)
    assert actions(table) == []
    assert actions(table, now_ms=NOW_MS + 1_000) == ["suspend"], "an entry ends too"


def test_memory_is_given_back_when_commands_are_over() -> None:
    table = CommandTable(TRUSTED)
    for number in range(50):
        table.apply(signed(key=f"k0-{number:032x}"), NOW_MS)
        table.apply(signed(key=f"k0-{number:032x}", action="restore", sequence=2), NOW_MS)
    table.expire(NOW_MS + HOUR_MS + 30_001)
    assert (len(table._seen), len(table._restored_ms), len(table._standing)) == (0, 0, 0)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["suspend", "throttle", "restore"]),
            st.sampled_from(["digits", "census", None]),
            st.integers(1, 50),
        ),
        max_size=30,
    ),
    st.randoms(use_true_random=False),
)
def test_any_order_of_writing_repeating_and_replaying_ends_where_the_true_order_ends(
    plan: list[tuple[str, str | None, int]], draw: Any
) -> None:
    """What matters is the highest sequence number, however often older ones are written between."""
    values = [
        signed(
            sequence=at,
            action=action,
            model=model,
            issued_ms=NOW_MS + at,
            parameters={"requests_per_minute": 6.0} if action == "throttle" else {},
        )
        for at, (action, model, _) in enumerate(plan, 1)
    ]
    honest, harassed = CommandTable(TRUSTED), CommandTable(TRUSTED)
    for at, value in enumerate(values):
        honest.apply(value, NOW_MS + 100)
        harassed.apply(value, NOW_MS + 100)
        for old in draw.sample(values[: at + 1], k=min(3, at + 1)):
            harassed.apply(old, NOW_MS + 100)
    for model in ("digits", "census", "other"):
        expected = actions(honest, model=model, now_ms=NOW_MS + 200)
        assert actions(harassed, model=model, now_ms=NOW_MS + 200) == expected


@given(st.binary(max_size=300))
def test_no_bytes_at_all_are_obeyed_or_raise(value: bytes) -> None:
    table = CommandTable(TRUSTED)
    assert table.apply(value, NOW_MS).outcome == "refused"
    assert len(table) == 0


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_no_changed_byte_is_obeyed(at: int, replacement: int) -> None:
    value = bytearray(signed())
    at %= len(value)
    if value[at] == replacement:
        return
    value[at] = replacement
    table = CommandTable(TRUSTED)
    verdict = table.apply(bytes(value), NOW_MS)
    # White space or another spelling of the same JSON is the same command; nothing else passes.
    if verdict.outcome != "refused":
        assert verdict.command == msgspec.json.decode(signed(), type=Command)
