"""Snapshots on a real broker: what is written, what is read back, what is refused."""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from crc32c import crc32c
from structlog.testing import capture_logs

from streams import statestore
from streams.bus.kafka import KafkaBus
from streams.errors import StateVersionError
from streams.recovery import read_to_end
from streams.settings import Settings
from streams.snapshot import Shelf, SnapshotMeta
from streams.statestore import Dump, StateStore
from streams.topics import create_topics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pytestmark = pytest.mark.kafka

FORMAT_1_KEY = struct.Struct(">iqBi")


@pytest.fixture
def settings(kafka_broker: str) -> Settings:
    made = Settings(kafka=kafka_broker, topic_prefix=f"store-{uuid4().hex[:8]}.")
    create_topics(kafka_broker, prefix=made.topic_prefix, partitions=1)
    return made


def run(settings: Settings, what: Callable[[StateStore], Awaitable[Any]]) -> Any:
    async def started() -> Any:
        store = StateStore(settings)
        await store.start()
        try:
            return await what(store)
        finally:
            await store.stop()

    return asyncio.run(started())


async def write(store: StateStore, shelf: Shelf, names: set[str], **changed: bytes) -> None:
    dump = Dump(changed, {name: crc32c(part) for name, part in changed.items()}, frozenset(names))
    await store.write(0, shelf, dump, SnapshotMeta(fences={"events": shelf.number}, outputs={}), [])


async def restore(store: StateStore) -> Any:
    return await store.read((await store.find([0]))[0])


def damage(store: StateStore) -> None:
    """Flip a bit of the next part on its way, as a disk might later."""
    send = store._producer.send

    async def flip(topic: str, value: Any, *more: Any, **options: Any) -> Any:
        if topic == store._parts_topic:
            store._producer.send = send
            value = bytes([value[0] ^ 1]) + bytes(value[1:])
        return await send(topic, value, *more, **options)

    store._producer.send = flip


def test_unchanged_parts_are_not_written_again_and_large_ones_come_back_whole(settings: Settings) -> None:
    large = bytes(range(256)) * 10_000

    async def scenario(store: StateStore) -> Any:
        shelf = Shelf(1)
        assert await restore(store) is None
        await write(store, shelf, {"large", "small", "gone"}, large=large, small=b"1", gone=b"x")
        for number in range(2, 8):
            await write(store, shelf, {"large", "small"}, small=b"%d" % number)
        return await restore(store)

    manifest, parts = run(settings, scenario)
    assert parts == {"large": large, "small": b"7"}
    assert manifest.meta.fences == {"events": 6}
    bus = KafkaBus(settings.kafka)
    written = [m for chunk in bus.read([settings.topic("state")]) for m in chunk]
    bus.close()
    assert sum(len(m.value or b"") for m in written) == len(large) + 7 + 1
    assert sum(m.value is None for m in written) == 1, "the part that is gone"


def test_a_damaged_part_falls_back_to_the_snapshot_before_and_says_so(settings: Settings) -> None:
    async def scenario(store: StateStore) -> Any:
        shelf = Shelf(1)
        await write(store, shelf, {"a", "b"}, a=b"a1", b=b"b1")
        await write(store, shelf, {"a", "b"}, a=b"a2")
        damage(store)
        await write(store, shelf, {"a", "b"}, b=b"b3")
        return await restore(store)

    with capture_logs() as logs:
        manifest, parts = run(settings, scenario)
    assert parts == {"a": b"a2", "b": b"b1"}
    assert manifest.number == 2
    (told,) = [entry for entry in logs if entry["event"] == "snapshot_skipped"]
    assert "snapshot 3 of generation 1: part b is missing or damaged" in told["reason"]


def test_the_first_snapshot_falls_back_to_the_beginning(settings: Settings) -> None:
    async def scenario(store: StateStore) -> Any:
        shelf = Shelf(1)
        await store.begin(0, shelf, SnapshotMeta(fences={"events": 6}, outputs={}))
        damage(store)
        await write(store, shelf, {"a"}, a=b"a1")
        return await restore(store)

    manifest, parts = run(settings, scenario)
    assert (manifest.number, manifest.meta.fences, parts) == (0, {"events": 6}, {})


def test_state_of_which_no_snapshot_is_whole_is_refused_not_forgotten(settings: Settings) -> None:
    async def scenario(store: StateStore) -> None:
        damage(store)
        await write(store, Shelf(1), {"a"}, a=b"a1")
        await restore(store)

    with pytest.raises(StateVersionError, match=r"none of its 1 snapshots is whole.*begin anew"):
        run(settings, scenario)


def test_earlier_generations_are_taken_off_with_their_plans_last(settings: Settings) -> None:
    async def scenario(store: StateStore) -> Any:
        for generation in (1, 2):
            shelf = Shelf(generation)
            found = (await store.find([0]))[0]
            await write(store, shelf, {"a"}, a=b"%d" % generation)
            await write(store, shelf, {"a"})
            await store.remove(0, found)
        return (await store.find([0]))[0]

    found = run(settings, scenario)
    assert {manifest.generation for manifest in found.manifests} == {2}
    assert [plan.generation for plan in found.plans] == [2]
    bus = KafkaBus(settings.kafka)
    standing = {m.key: m.value for chunk in bus.read([settings.topic("state")]) for m in chunk}
    bus.close()
    assert [value for value in standing.values() if value is not None] == [b"2"]


def test_a_snapshot_that_is_begun_meanwhile_is_not_taken_for_orphaned_state(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(store: StateStore) -> Any:
        async def read_slowly(bootstrap: str, starts: Any, **options: Any) -> Any:
            async for record in read_to_end(bootstrap, starts, **options):
                yield record
            if (settings.topic("snapshots"), 0) in starts:
                await write(store, Shelf(1), {"a"}, a=b"a1")

        monkeypatch.setattr(statestore, "read_to_end", read_slowly)
        return (await store.find([0]))[0]

    assert run(settings, scenario).manifests == []


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        # A piece of format 1, as it was written before manifests: version, generation, number, piece, count,
        # fence, checksum, then the length of the description and the description.
        (
            FORMAT_1_KEY.pack(0, 1 << 32, 1, 0),
            bytes.fromhex("0001000000010000000000000000000000010000000000000001000000000000000900000000")
            + b'\x00\x00\x00\x0f{"fences": {}}',
            r"format 1, this version reads format 2.*Run the version that wrote it, or delete",
        ),
        (b"orphan", b"part", r"no snapshot: it was made anew.*Delete and create"),
    ],
)
def test_state_of_an_earlier_format_or_without_manifests_is_refused_with_what_to_do(
    settings: Settings, key: bytes, value: bytes, told: str
) -> None:
    bus = KafkaBus(settings.kafka)
    bus.send(settings.topic("state"), value, key=key, partition=0)
    bus.flush()
    bus.close()
    with pytest.raises(StateVersionError, match=told):
        run(settings, restore)
