"""Any bytes on the events topic: millions of damaged records through everything that reads them.

    python tests/bench/fuzz_events.py --records 10000000

Recorded events in all three formats, damaged at random places (or random bytes altogether), in Kafka batches
that are now and then damaged or cut off themselves. Nothing may raise; what a batch held must come out again
as events or refusals, each once; and the JSON scanner must agree with the careful reader on every event. The
first fetch that breaks a rule is written to a file, to become a test, and ends the run.
"""

from __future__ import annotations

import random
import struct
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from crc32c import crc32c

from detectors.batch import COLUMNS as BATCH_COLUMNS
from detectors.engine import Engine, EngineSettings
from sinks.serving.event import encode_event
from sinks.serving.formats import COLUMNS, FORMAT_HEADER, RECORD, encode_columns, encode_record
from streams.codec import decode_events
from streams.faustbatch.unpack import unpack_fetch
from streams.formats.base import Limits
from streams.formats.careful import read_events
from streams.formats.headers import IS_JSON, read_formats
from streams.samples import load_sample

if TYPE_CHECKING:
    from detectors.batch import EventBatch
    from streams.recordblock import RecordBlock

NOW_MS = 1_780_000_000_000
PER_FETCH = 500
ODD = b' "{}[]:,\\0123456789eE.-+nulltrue\n\x00\x7f\x80\xff\xc3\xa9'
Sent = tuple[bytes | None, bytes]
"""Format and value."""


def make_pool() -> list[Sent]:
    """Take recorded events in every format."""
    events = [event for trace in load_sample()[:40] for event in list(trace.events())[:30]]
    pool: list[Sent] = [(None, encode_event(event)) for event in events]
    pool += [(RECORD, encode_record(event)) for event in events]
    pool += [(COLUMNS, encode_columns(events[at : at + 7])) for at in range(0, len(events), 7)]
    return pool


def damage(value: bytes, draw: random.Random) -> bytes:
    """Change a few bytes, cut, repeat or replace."""
    kind = draw.random()
    if kind < 0.02:
        return draw.randbytes(draw.randrange(300))
    changed = bytearray(value)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
        if not changed:
            break
        at = draw.randrange(len(changed))
        kind = draw.random()
        if kind < 0.5:
            changed[at] = draw.choice(ODD)
        elif kind < 0.7:
            changed[at] = draw.randrange(256)
        elif kind < 0.8:
            changed[at:at] = changed[at : at + draw.randrange(1, 60)]
        elif kind < 0.9:
            del changed[at : at + draw.randrange(1, 30)]
        else:
            changed[at:at] = bytes([draw.choice(ODD)])
    return bytes(changed[: draw.randrange(len(changed) + 1)]) if draw.random() < 0.03 else bytes(changed)


def scatter(sent: list[Sent], draw: random.Random) -> list[Sent]:
    """Change one byte in 300, anywhere."""
    joined = np.frombuffer(bytearray(b"".join(value for _, value in sent)), np.uint8)
    places = np.random.default_rng(draw.randrange(2**32))
    at = places.integers(0, len(joined), len(joined) // 300)
    joined[at] = np.where(at % 3, places.choice(np.frombuffer(ODD, np.uint8), len(at)), places.bytes(1)[0])
    changed, start = [], 0
    for event_format, value in sent:
        changed.append((event_format, joined[start : start + len(value)].tobytes()))
        start += len(value)
    return changed


def make_fetch(pool: list[Sent], draw: random.Random) -> bytes:
    """Return a fetch of damaged records, the batches themselves sometimes damaged or cut off."""
    fetch, offset = b"", 0
    chosen = iter(scatter(draw.choices(pool, k=2 * PER_FETCH), draw))
    while offset < PER_FETCH:
        codec = draw.choice((0, 0, 0, 3, 4))
        builder = DefaultRecordBatchBuilder(2, codec, 0, -1, -1, -1, 1 << 30)
        count = draw.randrange(1, 200)
        for at in range(count):
            event_format, value = next(chosen)
            value = damage(value, draw) if draw.random() < 0.3 else value
            headers = [] if event_format is None else [(FORMAT_HEADER, event_format)]
            if draw.random() < 0.01:
                headers = [(FORMAT_HEADER, draw.randbytes(draw.randrange(12)))]
            builder.append(
                at, timestamp=0, key=b"k", value=value if draw.random() > 0.01 else None, headers=headers
            )
        batch = bytearray(builder.build())
        struct.pack_into(">q", batch, 0, offset)
        if draw.random() < 0.05:
            for _ in range(draw.randrange(1, 5)):
                batch[draw.randrange(16, len(batch))] = draw.randrange(256)
            if draw.random() < 0.7:
                struct.pack_into(">I", batch, 17, crc32c(bytes(batch[21:])))
        fetch += batch
        offset += count
    return fetch[: -draw.randrange(1, 100)] if draw.random() < 0.1 else fetch


def same(left: EventBatch | None, right: EventBatch | None) -> bool:
    """Compare two batches, names by their text."""
    if left is None or right is None:
        return left is right
    if (left.models, left.tenants, left.plans) != (right.models, right.tenants, right.plans):
        return False
    pairs = [(getattr(left, column), getattr(right, column)) for column in BATCH_COLUMNS]
    return all(np.array_equal(one, other, equal_nan=one.dtype.kind == "f") for one, other in pairs)


def check_block(block: RecordBlock) -> EventBatch | None:
    """Decode a block; raise AssertionError where a rule is broken."""
    batch, rejections = decode_events(block, block.topic, now_ms=NOW_MS)
    formats = read_formats(block)
    whole = {rejection.message.offset for rejection in rejections if rejection.row is None}
    taken = set() if batch is None else set(batch.offset.tolist())
    partly = {rejection.message.offset for rejection in rejections if rejection.row is not None}
    offsets = {message.offset for message in block}
    assert whole | taken | partly == offsets, "a message came to nothing"
    assert not whole & (taken | partly), "a message was refused and taken"
    plain = block.pick(np.flatnonzero(formats == IS_JSON))
    if len(plain):
        fast = decode_events(plain, block.topic, now_ms=NOW_MS)
        careful = read_events(list(plain), block.topic, Limits(now_ms=NOW_MS))
        assert same(fast[0], careful[0]), "the scanner reads other values"
        assert fast[1] == [rejection for _, rejection in careful[1]], "the scanner refuses others"
    return batch


@click.command()
@click.option("--records", default=10_000_000, show_default=True, help="Records to send through.")
@click.option("--seed", default=1, show_default=True, help="The same seed makes the same records.")
def main(records: int, seed: int) -> None:
    """Send damaged records through all that reads them."""
    pool, engine = make_pool(), Engine(EngineSettings(hot_keys=20_000), {})
    done = events = 0
    start, told = time.monotonic(), 0.0
    for number in range(sys.maxsize):
        if done >= records:
            break
        fetch = make_fetch(pool, random.Random(seed * 1_000_003 + number))  # noqa: S311 - damage, not secrets
        try:
            first, suspect = 0, None
            for _ in range(2 * PER_FETCH):
                unpacked = unpack_fetch("fuzz", 0, fetch, first, suspect=suspect)
                if unpacked.block is not None:
                    done += len(unpacked.block)
                    batch = check_block(unpacked.block)
                    events += 0 if batch is None else len(batch)
                    if batch is not None and number % 20 == 0:
                        engine.process(batch)
                if unpacked.suspect is None:
                    break
                fetch, first, suspect = (
                    rest_of(fetch, unpacked.suspect),
                    unpacked.next_offset,
                    unpacked.suspect,
                )
        except BaseException:
            path = Path(f"fuzz-{seed}-{number}.fetch")
            path.write_bytes(fetch)
            print(f"broken by fetch {number} of seed {seed}, written to {path}", file=sys.stderr)
            raise
        if time.monotonic() - told > 10:
            told = time.monotonic()
            rate = done / (told - start + 1e-9)
            print(
                f"{done:,} of {records:,} records, {events:,} good events, {rate:,.0f} a second", flush=True
            )
    print(f"{done:,} records, {events:,} good events: nothing raised, nothing lost, both readers agree")


def rest_of(fetch: bytes, offset: int) -> bytes:
    """Return the fetch from the batch at an offset on, as the broker would send it again."""
    at = 0
    while at + 12 <= len(fetch):
        if int.from_bytes(fetch[at : at + 8], "big") == offset:
            return fetch[at:]
        at += 12 + int.from_bytes(fetch[at + 8 : at + 12], "big")
    return b""


if __name__ == "__main__":
    main()
