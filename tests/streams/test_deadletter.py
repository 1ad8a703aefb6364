"""Dead letters: nothing of the message in them, and a limit."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from sinks.records import DeadLetter
from streams.bus.base import Message
from streams.codec import Rejection
from streams.deadletter import DeadLetterLimit, dead_letter
from streams.errors import TooManyDeadLetters
from streams.settings import DeadLetterSettings

SECRET = b"sk-live-0123456789abcdef"


def rejection(offset: int = 7, value: bytes | None = SECRET) -> Rejection:
    message = Message(topic="modelwarden.events", partition=3, offset=offset, key=SECRET, value=value)
    return Rejection(reason="not_json", detail="$: expected one JSON object in UTF-8", message=message)


def test_a_dead_letter_says_where_and_why_and_nothing_of_what() -> None:
    letter = dead_letter(rejection())
    assert (letter.topic, letter.partition, letter.offset) == ("modelwarden.events", 3, 7)
    assert letter.size_bytes == len(SECRET)
    assert letter.sha256 == hashlib.sha256(SECRET).hexdigest()
    encoded = msgspec.json.encode(letter)
    assert SECRET not in encoded
    assert msgspec.json.decode(encoded, type=DeadLetter) == letter


def test_a_tombstone_has_the_digest_of_nothing() -> None:
    letter = dead_letter(rejection(value=None))
    assert letter.size_bytes == 0
    assert letter.sha256 == hashlib.sha256(b"").hexdigest()


def test_a_share_within_the_limit_goes_on_for_ever() -> None:
    limit = DeadLetterLimit(DeadLetterSettings(max_share=0.5, window_events=100, max_consecutive=50))
    recorded = 0
    for _ in range(200):
        limit.record(10, [rejection()] * 10)
        recorded += 1
    assert recorded == 200  # none of them raised


def test_a_share_above_the_limit_stops_once_the_window_is_full() -> None:
    limit = DeadLetterLimit(DeadLetterSettings(max_share=0.5, window_events=100, max_consecutive=1000))
    for _ in range(9):
        limit.record(4, [rejection()] * 6)
    with pytest.raises(TooManyDeadLetters) as caught:
        limit.record(4, [rejection()] * 6)
    message = str(caught.value)
    assert "60 of the last 100 messages" in message
    assert "most often not_json, as modelwarden.events/3/7" in message
    assert "dead_letters.max_share" in message


def test_old_good_events_do_not_hide_a_new_fault() -> None:
    limit = DeadLetterLimit(DeadLetterSettings(max_share=0.5, window_events=100, max_consecutive=1000))
    for _ in range(1000):
        limit.record(100, [])
    for _ in range(5):
        limit.record(1, [rejection()] * 9)
    with pytest.raises(TooManyDeadLetters, match="of the last 1"):
        limit.record(1, [rejection()] * 99)


def test_a_row_of_refused_messages_stops_and_one_good_event_ends_it() -> None:
    limit = DeadLetterLimit(DeadLetterSettings(max_share=1.0, window_events=10_000, max_consecutive=30))
    for _ in range(3):
        limit.record(0, [rejection()] * 30)
        limit.record(1, [])
    limit.record(0, [rejection()] * 30)
    with pytest.raises(TooManyDeadLetters, match="the last 31 messages were all refused"):
        limit.record(0, [rejection()])
