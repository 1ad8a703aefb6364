"""Reading the audit chain: from the topic, or from a run's folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from streams.bus.kafka import KafkaBus
from streams.errors import ModelwardenError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from streams.settings import Settings

AUDIT_FILE = "audit.jsonl"


class _Partition(msgspec.Struct):
    partition: int = -1


def read_run(folder: Path) -> Iterator[tuple[str, int, bytes]]:
    """Yield each entry of a run's folder with its place and the partition that it names.

    Raises
    ------
    ModelwardenError
        If the folder has no audit file.
    """
    path = folder / AUDIT_FILE
    if not path.exists():
        do = "Give the folder of a run, as `modelwarden demo` names it, or --kafka HOST:PORT"
        raise ModelwardenError(str(path), "no such file", do)
    return _lines(path)


def _lines(path: Path) -> Iterator[tuple[str, int, bytes]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                partition = msgspec.json.decode(line, type=_Partition).partition
            except (msgspec.DecodeError, UnicodeError):
                partition = -1
            yield f"{path} line {number}", partition, line.rstrip(b"\n")


def read_topic(settings: Settings) -> Iterator[tuple[str, int, bytes]]:
    """Yield each entry of the audit topic with its place and the partition it stands in. Raises BusError."""
    topic = settings.topic("audit")
    bus = KafkaBus(settings.kafka, security=settings.kafka_security)
    try:
        for batch in bus.read([topic]):
            for message in batch:
                place = f"{topic}/{message.partition}/{message.offset}"
                yield place, message.partition, message.value or b""
    finally:
        bus.close()
