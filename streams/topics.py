"""The topics of a deployment: what they must be, making them, checking them.

Partition p of `state`, `snapshots`, `alerts`, `decisions`, `commands`, `audit` and `dead-letter` belongs to
partition p of `events`: the worker that owns one writes the others. So all of them have the same number of
partitions.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError

from sinks.kafkasecurity import PLAINTEXT, KafkaSecurity
from streams.errors import ModelwardenError

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_PARTITIONS = 8
DEFAULT_PREFIX = "modelwarden."
_CONNECT_TIMEOUT_MS = 5_000
_REQUEST_TIMEOUT_MS = 30_000
"""Making a dozen topics takes a busy broker seconds."""
_COMPACTION_LAG_MS = "3600000"
"""A restarted worker reads its own late commands back; none may have been compacted away by then."""

_ARRIVAL_TIME = {"message.timestamp.type": "LogAppendTime"}
"""Retention and compaction count from arrival: late and replayed events carry old times of their own, and by
those Kafka would delete them at once."""


_EVENTS_MESSAGE_BYTES = "2097152"
"""Twice what a worker takes by default (`Settings.max_message_bytes`), so that a message somewhat too large
becomes a dead letter that says so; what is far too large, the broker refuses to its sender. The limit is on
the batch as sent: a compressed message may be many times larger unpacked."""


class TopicError(ModelwardenError):
    """The brokers cannot be reached, or refuse to make or describe a topic."""


class TopicSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What one topic must be."""

    name: str
    """Without prefix."""
    keyed: bool
    """Partitioned like `events`; otherwise one partition."""
    compacted: bool = False
    config: dict[str, str] = {}


TOPICS: tuple[TopicSpec, ...] = (
    TopicSpec(name="events", keyed=True, config={"max.message.bytes": _EVENTS_MESSAGE_BYTES}),
    TopicSpec(name="alerts", keyed=True, config={"retention.ms": "-1"}),
    TopicSpec(
        name="commands", keyed=True, compacted=True, config={"min.compaction.lag.ms": _COMPACTION_LAG_MS}
    ),
    TopicSpec(name="acks", keyed=True),
    TopicSpec(name="feedback", keyed=True, config={"retention.ms": "-1"}),
    TopicSpec(name="decisions", keyed=True, config={"retention.ms": "-1"}),
    TopicSpec(name="policy", keyed=False, compacted=True),
    TopicSpec(name="allowlist", keyed=False, compacted=True),
    TopicSpec(name="reference", keyed=False, compacted=True),
    TopicSpec(
        name="state",
        keyed=True,
        compacted=True,
        config={"segment.bytes": "67108864", "min.cleanable.dirty.ratio": "0.1"},
    ),
    TopicSpec(name="snapshots", keyed=True, compacted=True, config={"segment.bytes": "16777216"}),
    TopicSpec(name="audit", keyed=True, config={"retention.ms": "-1"}),
    TopicSpec(name="dead-letter", keyed=True),
)


class TopicReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was found, or done, for one topic."""

    topic: str
    ok: bool
    finding: str
    """One line: what is, and what to do if it is wrong."""


def create_topics(
    bootstrap: str,
    *,
    security: KafkaSecurity = PLAINTEXT,
    prefix: str = DEFAULT_PREFIX,
    partitions: int = DEFAULT_PARTITIONS,
    replication: int = 1,
) -> list[TopicReport]:
    """Make the topics that are missing, then check all. Raises TopicError."""
    with _admin(bootstrap, security) as admin:
        there = set(admin.list_topics())
        missing = [
            _new_topic(s, prefix, partitions, replication) for s in TOPICS if prefix + s.name not in there
        ]
        created = {topic.name for topic in missing if _create(admin, topic)}
        if missing:
            admin.wait_for_topics([topic.name for topic in missing])
        reports = _check(admin, prefix, partitions)
    return [
        msgspec.structs.replace(report, finding=f"created: {report.finding}")
        if report.topic in created
        else report
        for report in reports
    ]


def _create(admin: Any, topic: Any) -> bool:
    """Make a topic, unless somebody was quicker: what is listed lags behind what is there."""
    try:
        admin.create_topics([topic])
    except TopicAlreadyExistsError:
        return False
    return True


def check_topics(
    bootstrap: str,
    *,
    security: KafkaSecurity = PLAINTEXT,
    prefix: str = DEFAULT_PREFIX,
    partitions: int | None = None,
) -> list[TopicReport]:
    """Compare every topic with what it must be; by default as many partitions as `events`."""
    with _admin(bootstrap, security) as admin:
        return _check(admin, prefix, partitions)


def require_topics(
    bootstrap: str, *, security: KafkaSecurity = PLAINTEXT, prefix: str = DEFAULT_PREFIX
) -> None:
    """Raise TopicError, with what to do, if a topic is not what a worker needs."""
    wrong = [report for report in check_topics(bootstrap, security=security, prefix=prefix) if not report.ok]
    if wrong:
        more = f" (and {len(wrong) - 1} more: `modelwarden topics check`)" if len(wrong) > 1 else ""
        raise TopicError(f"topic {wrong[0].topic}", wrong[0].finding + more, "Then start the worker again")


def _new_topic(spec: TopicSpec, prefix: str, partitions: int, replication: int) -> Any:
    config = {"cleanup.policy": _policy(spec), **_ARRIVAL_TIME, **spec.config}
    return NewTopic(prefix + spec.name, partitions if spec.keyed else 1, replication, topic_configs=config)


def _policy(spec: TopicSpec) -> str:
    return "compact" if spec.compacted else "delete"


def _check(admin: Any, prefix: str, partitions: int | None) -> list[TopicReport]:
    names = [prefix + spec.name for spec in TOPICS]
    there = set(admin.list_topics())
    present = [name for name in names if name in there]
    sizes = {t["name"]: len(t["partitions"]) for t in admin.describe_topics(present)} if present else {}
    policies = _cleanup_policies(admin, present)
    wanted = partitions or sizes.get(f"{prefix}events", DEFAULT_PARTITIONS)
    return [
        _compare(spec, name, wanted if spec.keyed else 1, sizes.get(name), policies.get(name, ""))
        for spec, name in zip(TOPICS, names, strict=True)
    ]


def _compare(spec: TopicSpec, name: str, wanted: int, size: int | None, policy: str) -> TopicReport:
    if size is None:
        wrong = "missing: run `modelwarden topics create`"
    elif size != wanted:
        count = f" --partitions {wanted}" if spec.keyed else ""
        wrong = (
            f"has {size} partitions, needs {wanted}: stop the workers, delete the topic "
            f"(its records are lost) and run `modelwarden topics create{count}`"
        )
    elif policy != _policy(spec):
        wrong = (
            f"cleanup.policy is {policy}, needs {_policy(spec)}: run `kafka-configs.sh --alter "
            f"--entity-type topics --entity-name {name} --add-config cleanup.policy={_policy(spec)}`"
        )
    else:
        return TopicReport(topic=name, ok=True, finding=f"{size} partitions, {policy}")
    return TopicReport(topic=name, ok=False, finding=wrong)


def _cleanup_policies(admin: Any, names: list[str]) -> dict[str, str]:
    if not names:
        return {}
    found = admin.describe_configs([ConfigResource("TOPIC", name) for name in names], config_filter="all")
    return {name: config["cleanup.policy"]["value"] for name, config in found["topic"].items()}


@contextmanager
def _admin(bootstrap: str, security: KafkaSecurity) -> Iterator[Any]:
    """Connect, and turn the library's errors into ours."""
    client: Any = None
    arguments = security.client_arguments()
    try:
        client = KafkaAdminClient(
            bootstrap_servers=bootstrap.split(","),
            bootstrap_timeout_ms=_CONNECT_TIMEOUT_MS,
            request_timeout_ms=_REQUEST_TIMEOUT_MS,
            **arguments,
        )
        yield client
    except (KafkaError, OSError) as error:
        raise TopicError(
            f"Kafka at {bootstrap}",
            security.explain(bootstrap) or f"{type(error).__name__} {error}",
            "Check the address and that the broker runs, or start one with `modelwarden kafka up`",
        ) from error
    finally:
        if client is not None:
            client.close()
