"""The Kafka producer of a serving process: one that leaves the interpreter to the requests.

Who calls it: the emitter and the outlet, in their threads; it may block for `TIMEOUT_MS`.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kafka import KafkaProducer

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT_MS = 5_000
ASK_S = 0.1
"""How often to ask for the leader of a partition that has none: kafka-python's own `retry_backoff_ms`."""


@contextmanager
def connected_producer(kafka: str, **client: Any) -> Iterator[Any]:
    """Connect to the bootstrap servers, and close in the end; `client` holds more of kafka-python's settings.

    Raises
    ------
    KafkaError or OSError
        If none of them answers.
    """
    producer = KafkaProducer(
        bootstrap_servers=kafka.split(","),
        bootstrap_timeout_ms=TIMEOUT_MS,
        request_timeout_ms=TIMEOUT_MS,
        max_block_ms=TIMEOUT_MS,
        allow_auto_create_topics=False,
        acks="all",
        **client,
    )
    ask_calmly(producer._metadata)  # noqa: SLF001 - kafka-python has no setting for it
    try:
        yield producer
    finally:
        producer.close(timeout=TIMEOUT_MS / 1000)


def ask_calmly(metadata: Any) -> None:
    """Let a client's metadata be asked for ten times a second at most while an answer is awaited.

    kafka-python 3.0.12 asks in every turn of its loop while a partition has no leader, and asking ends its
    wait: with the brokers gone, its thread takes a whole core, and requests wait for the interpreter.
    """
    ask = metadata.request_update
    awaited: Any = None
    asked_s = -float("inf")

    def request_update() -> Any:
        nonlocal awaited, asked_s
        now_s = time.monotonic()
        if awaited is None or awaited.is_done or now_s - asked_s >= ASK_S:
            awaited, asked_s = ask(), now_s
        return awaited

    metadata.request_update = request_update
