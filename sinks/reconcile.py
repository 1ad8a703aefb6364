"""The reconcile loop: sees to it that commands are obeyed, and that they still stand on their topic.

Reads the commands and what serving layers say of them. A command in force that nobody acknowledges is sent
again, ever more slowly, and shown in a metric that pages. And since the commands topic is compacted, what is
written last under a command's key is all that a serving layer that starts later gets to see: where that is
not the last valid command (an old one sent again, a forgery, a deletion), that one is written again.

Who calls it: `modelwarden reconcile`, from one thread. Nothing here blocks or does I/O. It keeps no state of
its own: the topics are read from their beginning. Two of them at once only send some commands twice, which
serving layers recognise.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Any

import msgspec

from sinks.records import Acknowledgement, Command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sinks.serving.commands import CommandTable

DEFAULT_LIMIT_MS = 10_000
LONGEST_WAIT_MS = 600_000
MAX_REMEMBERED = 200_000
"""Acknowledgements remembered, to tell repeats, and to meet a command that is read after them."""


class Word(msgspec.Struct):
    """The last valid command under one key of the commands topic."""

    command: Command
    topic_key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]
    partition: int
    stored_ms: int
    """When the topic got it first."""
    is_last: bool = True
    """Whether it is also the last record under its key."""
    is_answered: bool = False
    sends: int = 1
    due_ms: int = 0


class Reconciler:
    """Follows commands and acknowledgements.

    Parameters
    ----------
    table : CommandTable
        Decides which commands are valid. Its `expire` is called here.
    limit_ms : int
        How long a command may go unacknowledged before it is sent again.
    """

    def __init__(self, table: CommandTable, limit_ms: int = DEFAULT_LIMIT_MS) -> None:
        self.counts: Counter[str] = Counter()
        """Acknowledgements by outcome, repeats as `repeated`; commands `resent` and `rewritten`."""
        self.latencies_ms: list[int] = []
        """From the topic to the first enforcement, of commands since the list was last emptied."""
        self._table = table
        self._limit_ms = limit_ms
        self._words: dict[bytes, Word] = {}
        self._by_id: dict[str, Word] = {}
        self._heard: OrderedDict[tuple[str, str, str], int] = OrderedDict()
        self._first_enforced: OrderedDict[str, int] = OrderedDict()
        self._decoder = msgspec.json.Decoder(Acknowledgement)

    def take_command(self, record: Any, now_ms: int) -> None:
        """Take a record of the commands topic (kafka-python's)."""
        verdict = self._table.apply(record.value, now_ms)
        topic_key = record.key or b""
        if verdict.outcome == "enforced" and verdict.command is not None:
            self._put(record, topic_key, verdict.command, now_ms)
            return
        command = verdict.command
        if verdict.outcome == "expired":  # it was the last word, and is over
            self._drop(topic_key)
            return
        word = self._words.get(topic_key)
        if word is not None:
            word.is_last = command is not None and command.command_id == word.command.command_id

    def _drop(self, topic_key: bytes) -> None:
        before = self._words.pop(topic_key, None)
        if before is not None:
            self._by_id.pop(before.command.command_id, None)

    def _put(self, record: Any, topic_key: bytes, command: Command, now_ms: int) -> None:
        self._drop(topic_key)
        word = self._words[topic_key] = self._by_id[command.command_id] = Word(
            command=command,
            topic_key=topic_key,
            value=record.value,
            headers=list(record.headers),
            partition=record.partition,
            stored_ms=record.timestamp,
            due_ms=now_ms + self._limit_ms,
        )
        if command.command_id in self._first_enforced:
            self._answer(word, self._first_enforced[command.command_id])

    def take_acknowledgement(self, value: bytes | None) -> None:
        """Take a record of the acks topic; what is no acknowledgement is counted."""
        try:
            told = self._decoder.decode(value or b"")
        except (msgspec.MsgspecError, UnicodeError):
            self.counts["malformed"] += 1
            return
        place = (told.command_id, told.enforcer, told.outcome)
        if place in self._heard:
            self.counts["repeated"] += 1
            return
        _remember(self._heard, place, told.time_ms)
        self.counts[told.outcome] += 1
        word = self._by_id.get(told.command_id)
        if told.outcome == "enforced":
            if word is not None:
                self._answer(word, told.time_ms)
            if told.command_id not in self._first_enforced:
                _remember(self._first_enforced, told.command_id, told.time_ms)
        elif told.outcome == "refused" and word is not None:
            word.is_answered = True  # sending it again would change nothing; the refusals are counted

    def _answer(self, word: Word, time_ms: int) -> None:
        if not word.is_answered:
            word.is_answered = True
            self.latencies_ms.append(max(0, time_ms - word.stored_ms))

    def due(self, now_ms: int) -> Iterator[Word]:
        """Yield what to write to the commands topic again, now."""
        self._expire(now_ms)
        for word in list(self._words.values()):
            if not word.is_last:
                word.is_last = True  # until its topic tells otherwise
                self.counts["rewritten"] += 1
                yield word
            elif not word.is_answered and now_ms >= word.due_ms:
                word.sends += 1
                word.due_ms = now_ms + min(LONGEST_WAIT_MS, self._limit_ms * 2 ** (word.sends - 1))
                self.counts["resent"] += 1
                yield word

    def _expire(self, now_ms: int) -> None:
        self._table.expire(now_ms)
        for topic_key, word in list(self._words.items()):
            if word.command.expires_ms <= now_ms:
                self._drop(topic_key)

    def unacknowledged(self, now_ms: int) -> dict[str, tuple[int, float]]:
        """Return, by action, how many commands in force nobody acknowledged, and the oldest's age in s."""
        found: dict[str, tuple[int, float]] = {}
        for word in self._words.values():
            if not word.is_answered and now_ms < word.command.expires_ms:
                count, oldest_s = found.get(word.command.action, (0, 0.0))
                age_s = max(0, now_ms - word.stored_ms) / 1000
                found[word.command.action] = (count + 1, max(oldest_s, age_s))
        return found


def _remember(memory: OrderedDict[Any, int], place: Any, time_ms: int) -> None:
    memory[place] = time_ms
    if len(memory) > MAX_REMEMBERED:
        memory.popitem(last=False)
