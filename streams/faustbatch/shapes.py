"""What this package relies on inside Faust and aiokafka, checked before it is used.

The subclasses here override private methods. A release that changes one of them must stop the worker with a
clear error at import, not lose offsets at three in the morning. Only speed can be done without: where the
fetcher's shape is another, records come one by one, many times slower; where the connection's is, responses
are copied as aiokafka does; and one log line says so.
"""

from __future__ import annotations

import asyncio
import inspect
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import faust
import structlog
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection
from aiokafka.consumer import fetcher
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.protocol.types import Bytes as BytesField
from aiokafka.structs import ConsumerRecord
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer
from faust.types import ConsumerMessage

if TYPE_CHECKING:
    from collections.abc import Callable

VERSIONS = {"faust-streaming": "0.15.3", "aiokafka": "0.14.", "mode-streaming": "0.7."}
"""Tested versions, as prefixes."""

PARAMETERS: dict[Callable[..., Any], tuple[str, ...]] = {
    AIOKafkaConsumerThread._commit: ("self", "offsets"),  # noqa: SLF001 - that we reach for these is what is checked
    AIOKafkaConsumerThread._create_worker_consumer: ("self", "transport"),  # noqa: SLF001 - same
    AIOKafkaConsumerThread._fetch_records: (  # noqa: SLF001 - same
        "self",
        "consumer",
        "active_partitions",
        "timeout",
        "max_records",
    ),
    Consumer._commit: ("self", "offsets"),  # noqa: SLF001 - same
    Consumer._new_consumer_thread: ("self",),  # noqa: SLF001 - same
    Consumer._new_offset: ("self", "tp"),  # noqa: SLF001 - same
    Consumer._drain_messages: ("self", "fetcher"),  # noqa: SLF001 - same
    Consumer._wait_next_records: ("self", "timeout"),  # noqa: SLF001 - same
    Consumer._to_message: ("self", "tp", "record"),  # noqa: SLF001 - same
    Consumer._get_active_partitions: ("self",),  # noqa: SLF001 - same
    Consumer.ack: ("self", "message"),
    Consumer.on_buffer_drop: ("self", "tp"),
    Consumer.perform_seek: ("self",),
    Consumer.seek_wait: ("self", "partitions"),
    Consumer.stop_flow: ("self",),
    Consumer.wait_empty: ("self",),
    Consumer.force_commit: ("self", "topics", "start_new_transaction"),
    faust.Topic._compile_decode: ("self",),  # noqa: SLF001 - same
    faust.Topic._create_event: ("self", "key", "value", "headers", "message"),  # noqa: SLF001 - same
    faust.App._new_transport: ("self",),  # noqa: SLF001 - same
    faust.App._create_directories: ("self",),  # noqa: SLF001 - same
    faust.App._on_rebalance_when_stopped: ("self",),  # noqa: SLF001 - same
    faust.Worker._schedule_shutdown: ("self", "signal"),  # noqa: SLF001 - same
}
MESSAGE_PARAMETERS = {"topic", "partition", "offset", "timestamp", "value", "tp", "generation_id"}
RECORD_FIELDS = {"topic", "partition", "offset", "timestamp", "key", "value", "headers"}
COORDINATOR_NAMES = {"_coordination_task", "_pending_exception"}
"""Where aiokafka keeps what ended a consumer's part in its group."""

PARTITION_RECORDS_PARAMETERS = (
    "self",
    "tp",
    "records",
    "aborted_transactions",
    "fetch_offset",
    "key_deserializer",
    "value_deserializer",
    "check_crcs",
    "isolation_level",
)
FETCHER_NAMES = {"MemoryRecords", "PartitionRecords", "has_next", "size_in_bytes"}
"""What the fetcher's request routine uses to read a response."""
RECEIVE_PARAMETERS: dict[Callable[..., Any], tuple[str, ...]] = {
    AIOKafkaClient._get_conn: ("self", "node_id", "group", "no_hint"),  # noqa: SLF001 - same
    AIOKafkaConnection._handle_frame: ("self", "resp"),  # noqa: SLF001 - same
}
RECEIVE_NAMES: dict[Callable[..., Any], set[str]] = {
    AIOKafkaConnection._handle_frame: {"_requests", "io", "BytesIO"},  # noqa: SLF001 - same
    AIOKafkaConnection._read: {"_reader", "readexactly", "_handle_frame"},  # noqa: SLF001 - same
    AIOKafkaConnection.connect: {"_reader", "_writer", "_protocol", "StreamReader"},
    asyncio.StreamReader.feed_data: {"_buffer"},
    BytesField.decode: {"read", "len"},
}
"""What receiving into frames goes by: names that the code there must still use."""

_log = structlog.get_logger(__name__)


class ShapeError(ImportError):
    """A library is not of the shape that this package was written and tested against."""


def check_shapes() -> None:
    """Compare the installed libraries with what is relied on. Raises ShapeError."""
    for package, tested in VERSIONS.items():
        if not version(package).startswith(tested):
            raise _error(f"{package} is {version(package)}, tested with {tested}")
    for function, wanted in PARAMETERS.items():
        found = tuple(inspect.signature(function).parameters)
        if found != wanted:
            raise _error(f"{function.__qualname__} takes {found}, expected {wanted}")
    missing = MESSAGE_PARAMETERS - set(inspect.signature(ConsumerMessage).parameters)
    missing |= RECORD_FIELDS - set(ConsumerRecord.__dataclass_fields__)
    if missing:
        raise _error(f"records have no {sorted(missing)}")
    missing = COORDINATOR_NAMES - set(GroupCoordinator.check_errors.__code__.co_names)
    if missing:
        raise _error(f"the group's coordinator keeps no {sorted(missing)}")


def has_fetch_shape() -> bool:
    """Tell whether batches can be had undecoded; if not, one log line says why."""
    request = fetcher.Fetcher._proc_fetch_request  # noqa: SLF001 - that we reach for it is what is checked
    found = tuple(inspect.signature(fetcher.PartitionRecords).parameters)
    missing = FETCHER_NAMES - set(request.__code__.co_names)
    if found == PARTITION_RECORDS_PARAMETERS[1:] and not missing and not request.__code__.co_freevars:
        return True
    _log.warning(
        "records_one_by_one",
        reason=f"aiokafka {version('aiokafka')} has another fetcher than the tested {VERSIONS['aiokafka']}",
        missing=sorted(missing),
    )
    return False


def has_receive_shape() -> bool:
    """Tell whether responses can be received into frames; if not, one log line says why."""
    found = {function: tuple(inspect.signature(function).parameters) for function in RECEIVE_PARAMETERS}
    other = [
        function.__qualname__ for function, wanted in RECEIVE_PARAMETERS.items() if found[function] != wanted
    ]
    other += [f.__qualname__ for f, names in RECEIVE_NAMES.items() if names - set(f.__code__.co_names)]
    if not other:
        return True
    _log.warning(
        "responses_copied",
        reason=f"aiokafka {version('aiokafka')} reads otherwise than the tested {VERSIONS['aiokafka']}",
        other=sorted(other),
    )
    return False


def _error(what: str) -> ShapeError:
    pins = ", ".join(f"{package}=={tested}" for package, tested in VERSIONS.items())
    return ShapeError(f"{what}; streams.faustbatch reaches into it: install the pinned versions ({pins})")


check_shapes()
