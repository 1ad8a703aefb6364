"""Policies are signed and numbered; what is older, foreign or tampered with never comes into force."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sinks.errors import PolicyError, SigningError
from sinks.policyfile import load_policy
from sinks.policytopic import PolicyLedger, SignedPolicy
from sinks.records import Allow, OperatorAction
from sinks.signing import Signer
from sinks.trustedkeys import trust
from streams.bus.memory import MemoryBus
from streams.publish import Publisher, PublishError
from streams.settings import Settings

ANA = Signer(Ed25519PrivateKey.from_private_bytes(bytes(32)))
EVE = Signer(Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32))
SETTINGS = Settings()
OBSERVE, ENFORCE = load_policy(None), load_policy(None, "enforce")
WORDS: dict[str, Any] = {"author": "ana", "reason": "a test", "now_ms": 1000}


def desk() -> Publisher:
    topics = {"policy": 1, "allowlist": 1, "feedback": 2}
    bus = MemoryBus({SETTINGS.topic(name): count for name, count in topics.items()})
    return Publisher(bus, SETTINGS, trust(ANA))


def newest(publisher: Publisher) -> SignedPolicy:
    found = publisher.history().newest
    assert found is not None
    return found


def test_versions_rise_and_one_command_goes_back() -> None:
    publisher = desk()
    first = publisher.policy(ANA, OBSERVE, **WORDS)
    second = publisher.policy(ANA, ENFORCE, **WORDS)
    assert (first.sequence, second.sequence) == (1, 2)
    back = publisher.rollback(ANA, None, **WORDS)
    assert (back.sequence, back.rollback_to, back.policy) == (3, 1, OBSERVE)
    again = publisher.rollback(ANA, 2, **WORDS)
    assert (newest(publisher), again.policy) == (again, ENFORCE)
    with pytest.raises(PublishError, match="there are 1, 2, 3, 4"):
        publisher.rollback(ANA, 9, **WORDS)
    with pytest.raises(PublishError, match="no version before"):
        desk().rollback(ANA, None, **WORDS)


def test_what_somebody_else_signed_is_refused_and_does_not_count() -> None:
    publisher = desk()
    publisher.policy(ANA, OBSERVE, **WORDS)
    with pytest.raises(SigningError, match="not signed by a trusted key"):
        publisher.policy(EVE, ENFORCE, **WORDS)
    foreign = EVE.sign(msgspec.structs.replace(newest(publisher), sequence=99, policy=ENFORCE))
    publisher.bus.send(SETTINGS.topic("policy"), msgspec.json.encode(foreign), key=b"x")
    history = publisher.history()
    assert len(history.versions) == len(history.refused) == 1
    assert publisher.policy(ANA, ENFORCE, **WORDS).sequence == 2


def test_a_reset_of_the_breaker_is_a_version_with_the_same_policy() -> None:
    publisher = desk()
    with pytest.raises(PolicyError, match="Push the policy first"):
        publisher.reset_breaker(ANA, **WORDS)
    publisher.policy(ANA, ENFORCE, **WORDS)
    assert [publisher.reset_breaker(ANA, **WORDS).breaker_resets for _ in range(2)] == [1, 2]
    assert publisher.policy(ANA, OBSERVE, **WORDS).breaker_resets == 2, "kept"


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b'"observe"', b'"enforce"', "signature does not hold"),
        (b'"author":"ana"', b'"author":"eve"', "signature does not hold"),
        (b'"sequence":1', b'"sequence":7', "signature does not hold"),
        (b'"max_keys":7', b'"max_keys":9', "signature does not hold"),
        (b'"version"', b'"versoin"', "no such field, perhaps `version`"),
    ],
)
def test_any_tampering_is_refused(old: bytes, new: bytes, why: str) -> None:
    policy = msgspec.structs.replace(
        OBSERVE, breaker=msgspec.structs.replace(OBSERVE.breaker, max_keys=7), forgiven_s=60
    )
    signed = ANA.sign(
        SignedPolicy(sequence=1, issued_ms=1, author="ana", reason="r", policy=policy, breaker_resets=0)
    )
    value = msgspec.json.encode(signed).replace(b'"policy":{', b'"policy":{"mode":"observe",')
    if old == b'"observe"':
        assert PolicyLedger(trust(ANA)).take(value, "here") == signed, (
            "a default that is spelt out is the same"
        )
    assert old in value
    ledger = PolicyLedger(trust(ANA))
    with pytest.raises((SigningError, PolicyError), match=why):
        ledger.take(value.replace(old, new), "here")
    assert ledger.sequence == -1


def test_an_older_version_that_is_sent_again_is_refused() -> None:
    ledger = PolicyLedger(trust(ANA))
    values = [
        msgspec.json.encode(
            ANA.sign(SignedPolicy(sequence=at, issued_ms=at, author="a", reason="r", policy=OBSERVE))
        )
        for at in (1, 2)
    ]
    for value in values:
        ledger.take(value, "here")
    for value in values:
        with pytest.raises(SigningError, match="policy rollback"):
            ledger.take(value, "here")
    with pytest.raises(PolicyError, match="tombstone"):
        ledger.take(None, "here")


def test_the_allowlist_and_peoples_words_are_signed_and_keyed() -> None:
    publisher = desk()
    entry = Allow(
        allow_id="0" * 32, tenants=("acme",), purpose="p", owner="ana", reason="r", issued_ms=1000,
        expires_ms=2000, sequence=0,
    )  # fmt: skip
    assert [publisher.allow(ANA, entry).sequence for _ in range(2)] == [0, 1]
    publisher.allow(ANA, msgspec.structs.replace(entry, withdrawn=True))
    assert publisher.allowlist().entries == ()
    action = OperatorAction(
        action_id="1" * 32, action="undo", key="k0-" + "a" * 32, decision_id="2" * 32, alert_id="3" * 32,
        operator="ana", reason="r", time_ms=1000,
    )  # fmt: skip
    with pytest.raises(SigningError):
        publisher.act(EVE, action)
    signed = publisher.act(ANA, action)
    ((message,),) = publisher.bus.read([SETTINGS.topic("feedback")])
    assert (message.key, msgspec.json.decode(message.value or b"", type=OperatorAction)) == (
        action.key.encode(),
        signed,
    )
