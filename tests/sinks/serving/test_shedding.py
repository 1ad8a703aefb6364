"""A flood of events on a real broker: sketches go, then events, all of it counted; commands come through."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING
from uuid import uuid4

import msgspec
import numpy as np
import pytest
from signed import make_command

from sinks.records import Acknowledgement
from sinks.serving.backlog import EVENT_BYTES
from sinks.serving.clock import now_ms
from sinks.serving.emitter import Emitter
from sinks.serving.event import make_event
from sinks.serving.settings import ServingSettings
from sinks.serving.warden import Warden
from sinks.signing import generate_key, load_signer
from streams.bus.kafka import KafkaBus
from streams.codec import decode_events
from streams.topics import create_topics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

KEY = "k0-" + "a" * 32
SKETCH = np.ones(32, np.float16)
EVENT = make_event(
    time_ms=1_760_000_000_000, key=KEY, model="digits", input_sketch=SKETCH, embedding_sketch=SKETCH, top1=0.9
)
QUEUED_BYTES = 1_000 * EVENT_BYTES

pytestmark = pytest.mark.kafka


@pytest.fixture
def place(kafka_broker: str) -> Iterator[tuple[KafkaBus, str, str]]:
    """A deployment's topics: a client, the broker, the prefix."""
    prefix = f"shed-{uuid4().hex[:8]}."
    create_topics(kafka_broker, prefix=prefix, partitions=2)
    bus = KafkaBus(kafka_broker)
    yield bus, kafka_broker, prefix
    bus.close()


def wait(what: Callable[[], object], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_more_than_the_brokers_take_is_shed_in_order_and_all_is_accounted_for(
    place: tuple[KafkaBus, str, str],
) -> None:
    bus, kafka, prefix = place
    emitter = Emitter(kafka, f"{prefix}events", queued_bytes=QUEUED_BYTES)
    emitter.start()
    offered = 0
    while emitter.dropped["buffer_full"] < 100:
        offered += 1
        emitter.put(EVENT)
    wait(lambda: not len(emitter))
    assert emitter.put(EVENT), "there is room again"
    emitter.stop()
    assert offered + 1 == emitter.emitted + emitter.dropped.total()
    shed = emitter.backlog.shed
    assert shed["embedding_sketch"] > shed["input_sketch"] > 0
    found = []
    for chunk in bus.read([f"{prefix}events"]):
        batch, refused = decode_events(chunk, f"{prefix}events")
        assert batch is not None
        assert not refused
        assert np.isfinite(batch.top1).all(), "what is left still tells of the answer"
        found += [
            (has_input, has_embedding)
            for has_input, has_embedding in zip(
                np.isfinite(batch.input_sketch[:, 0]).tolist(),
                np.isfinite(batch.embedding_sketch[:, 0]).tolist(),
                strict=True,
            )
        ]
    assert len(found) == emitter.emitted
    assert sum(not has_embedding for _, has_embedding in found) == shed["embedding_sketch"]
    assert sum(not has_input for has_input, _ in found) == shed["input_sketch"]
    assert (False, True) not in found, "the embedding goes first"
    assert found[0] == found[-1] == (True, True)


def test_commands_arrive_and_are_acknowledged_while_events_are_shed_and_dropped(
    place: tuple[KafkaBus, str, str], tmp_path: Path
) -> None:
    bus, kafka, prefix = place
    (tmp_path / "secret").write_text("0123456789abcdef" * 4)
    generate_key(tmp_path / "signing.pem")
    settings = ServingSettings(
        model="digits",
        kafka=kafka,
        topic_prefix=prefix,
        key_secret_file=tmp_path / "secret",
        trusted_keys=tmp_path / "signing.pem.pub",
        queued_bytes=2**20,
    )
    warden = Warden(settings)
    warden.start()
    over = threading.Event()

    def flood() -> None:
        while not over.is_set():
            for _ in range(100):
                warden.events.put(EVENT)
            time.sleep(0)

    flooding = threading.Thread(target=flood)
    flooding.start()
    try:
        assert warden.enforcer.follower.wait_until_ready(20)
        wait(lambda: warden.events.dropped["buffer_full"] > 1_000)
        dropped, now = warden.events.dropped["buffer_full"], now_ms()
        signer = load_signer(tmp_path / "signing.pem")
        command = make_command(key=KEY, issued_ms=now, expires_ms=now + 3_600_000)
        bus.send(f"{prefix}commands", msgspec.json.encode(signer.sign(command)), key=f"{KEY}/digits".encode())
        bus.flush()
        wait(lambda: [one.action for one in warden.enforcer.lookup(KEY, "digits")] == ["suspend"])
        wait(lambda: warden.acks.stored == 1)
        wait(lambda: warden.events.dropped["buffer_full"] > dropped)
    finally:
        over.set()
        flooding.join()
        warden.stop()
    assert warden.acks.dropped == 0
    assert min(warden.events.backlog.shed.values()) > 0
    [told] = [
        msgspec.json.decode(message.value or b"", type=Acknowledgement)
        for chunk in bus.read([f"{prefix}acks"])
        for message in chunk
    ]
    assert (told.command_id, told.outcome) == (command.command_id, "enforced")
