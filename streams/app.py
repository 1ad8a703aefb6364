"""The Faust application: `modelwarden worker`, or `faust -A streams.app worker`.

What Faust does: group membership, rebalances, streams and agents, signals and the process. What it does not
do here: tables, changelogs, exactly-once, web. Records come in chunks (`streams.faustbatch`), state and
offsets are fenced (`streams.state`).
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import faust
import structlog
from aiokafka.errors import KafkaError
from faust.auth import Credentials, SASLCredentials, SSLCredentials

from sinks.metrics import catalogue
from streams.agents.events import add_events_agent
from streams.agents.feedback import add_feedback_agent
from streams.agents.policy import PolicyFeed, add_policy_agent
from streams.errors import PolicyError
from streams.faustbatch import BatchTopic, BatchTransport
from streams.logs import setup_logs
from streams.membership import Membership
from streams.metrics import Metrics
from streams.outputs import OutputWriter
from streams.pipeline import build_pipeline
from streams.selfwatch import SelfWatch
from streams.settings import Settings, load_settings
from streams.state import FencedState
from streams.statestore import StateStore
from streams.topics import require_topics
from streams.warmup import warm_up
from streams.watchdog import RESTART_EXIT_CODE, Watchdog, ask_bounds

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable

    from sinks.kafkasecurity import KafkaSecurity
    from sinks.policytopic import PolicyInForce
    from streams.faustbatch import Chunk
    from streams.partitionstate import Step
    from streams.pipeline import Pipeline

SESSION_TIMEOUT_S = 6.0
"""The shortest that Kafka allows by default: after a kill, partitions wait this long for another worker."""
STATIC_SESSION_TIMEOUT_S = 30.0
"""For a worker with an instance id, which needs no wait when it comes back: time to start again in."""
HEARTBEAT_S = 1.0
METADATA_S = 10.0
"""A broker that comes back may leave topics out when it is asked just then. Partitions would be shared out
without them, and nobody would notice before the next look at the topics: after five minutes by default."""
GROUP_LOOK_S = 1.0
COMMIT_INTERVAL_S = 1.0
SNAPSHOT_INTERVALS_S, BIG_STATE_BYTES = (10.0, 30.0), 256 * 1024 * 1024
"""Unless set: the longer one for a state that takes seconds to store."""
QUEUED_CHUNKS = 4
"""Few: what waits here was cut when traffic was light; with little room, the next fetch grows instead."""
FETCH_BYTES = 3 * 1024 * 1024
"""Of a partition: as JSON one full chunk, in micro-batches two."""

_log = structlog.get_logger(__name__)


class WorkerApp(faust.App):
    """One worker: its agents, its outputs and its state.

    Parameters
    ----------
    settings : Settings
    build : callable
        Makes the pipeline of a source partition.
    """

    def __init__(self, settings: Settings, build: Callable[[Settings], Pipeline]) -> None:
        self.worker_settings = settings
        self.build = build
        self.outputs = OutputWriter(settings)
        self.metrics = Metrics()
        self.store = StateStore(settings)
        self.fences = FencedState(settings, build, self.outputs, self.store, self.metrics)
        self.policies = PolicyFeed(settings, self.fences.policy, self.metrics.instruments)
        self.self_watch = SelfWatch(self)
        self.membership = Membership(settings.consumer_group, settings.consumer_instance_id)
        self.watchdog = Watchdog(
            settings.watchdog,
            positions=self.fences.positions,
            is_rebalancing=lambda: bool(self.rebalancing),
            bounds=partial(ask_bounds, settings.kafka, settings.kafka_security),
        )
        super().__init__(settings.consumer_group, **_faust_settings(settings))
        self.on_rebalance_complete.connect(self._take_over)
        self.task(self._snapshot_regularly)

    def _new_transport(self) -> BatchTransport:
        return BatchTransport(self.conf.broker_consumer, self, loop=self.loop)

    def _create_directories(self) -> None:
        """Make none: without tables Faust has nothing to keep on disk."""

    def batch_topic(self, name: str) -> BatchTopic:
        """Return the topic whose events are chunks, by its name without prefix."""
        raw = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}
        return BatchTopic(self, topics=[self.worker_settings.topic(name)], **raw)

    def _on_rebalance_when_stopped(self) -> None:
        """Do nothing: the consumer is being stopped, and leaves the group when the rebalance is over.

        Faust closes the consumer's connections here, from another thread and under the rebalance, which then
        retries for ever: the process would not end.
        """

    async def on_first_start(self) -> None:
        """Check the topics, compile the kernels and connect, before anything is subscribed to."""
        await super().on_first_start()
        await self.self_watch.start()
        settings = self.worker_settings
        await asyncio.to_thread(
            require_topics, settings.kafka, security=settings.kafka_security, prefix=settings.topic_prefix
        )
        await asyncio.to_thread(warm_up, self.build, settings)
        # What is loaded by now stays. To go through it again would hold the worker up, now and then.
        gc.collect()
        gc.freeze()
        await self.outputs.start()
        await self.store.start()
        policy = await self.policies.catch_up()
        if policy is not None:
            await self.adopt(policy)
        self.self_watch.health.is_warm = True
        # Not as Faust's tasks, which wait for the first partition: it may never come.
        self.add_future(self.watchdog.run())
        self.add_future(self._watch_group())

    async def on_shutdown(self) -> None:
        """Release the connections, after everything that writes has stopped."""
        await super().on_shutdown()
        await self.policies.close()
        await self.outputs.stop()
        await self.store.stop()
        await self.self_watch.stop()

    async def apply(self, chunk: Chunk, step: Step) -> None:
        """Run a chunk through its pipeline; a failure stops the worker, for going on would lose the chunk."""
        if chunk.seek_count != self.consumer.seek_count:
            return
        try:
            await self.fences.apply(chunk, step)
        except Exception as error:
            await self.stop_for(error)
            raise

    def hold(self, chunk: Chunk, step: Step) -> None:
        """Keep a chunk until the next snapshot, with which it is applied."""
        if chunk.seek_count == self.consumer.seek_count:
            self.fences.hold(chunk, step)

    async def adopt(self, policy: PolicyInForce) -> None:
        """Put a policy in force; one that cannot be (it needs a signing key, say) is logged and left."""
        try:
            self.fences.set_policy(policy)
        except PolicyError as error:
            _log.error("policy_refused", source=policy.policy_version, error=str(error))
            self.metrics.instruments.add(catalogue.POLICY_REFUSED)
        else:
            await self._snapshot()

    async def stop_for(self, error: Exception) -> None:
        """Log why the worker cannot go on, and stop it with exit code 1."""
        told = (
            f"the brokers did not do what they were asked: {error}"
            if isinstance(error, KafkaError)
            else str(error)
        )
        _log.error("worker_failed", error=told, kind=type(error).__name__)
        await self.crash(error)

    async def _take_over(self, *_sender: Any, **_options: Any) -> None:
        mine = {tp.partition for tp in self.consumer.assignment() if tp.topic == self.fences.events_topic}
        try:
            self.membership.joined(self.consumer_generation_id, self.loop.time())
            await self.fences.assign(mine, self.consumer_generation_id)
        except Exception as error:
            await self.stop_for(error)
            raise
        self.self_watch.health.is_assigned = True

    async def _watch_group(self) -> None:
        """Stop the worker, with a reason, once its group has shut it out."""
        while not self.should_stop:
            await self.sleep(GROUP_LOOK_S)
            try:
                self.membership.check(self.consumer.group_failure)
            except Exception as error:
                await self.stop_for(error)
                raise

    async def _snapshot_regularly(self) -> None:
        """Store each partition once an interval, one after the other, so that the load is even."""
        while not self.should_stop:
            partitions = sorted(self.fences.partitions) or [-1]
            for partition in partitions:
                await self.sleep(self._snapshot_interval_s() / len(partitions))
                await self._snapshot(partition)

    def _snapshot_interval_s(self) -> float:
        if self.worker_settings.snapshot_interval_s is not None:
            return self.worker_settings.snapshot_interval_s
        states = self.fences.partitions.values()
        is_big = sum(state.pipeline.engine.state_bytes for state in states) > BIG_STATE_BYTES
        return SNAPSHOT_INTERVALS_S[is_big]

    async def _snapshot(self, partition: int | None = None) -> None:
        """Store a partition, or all."""
        try:
            if partition is None:
                await self.fences.snapshot_all()
            else:
                await self.fences.snapshot(partition)
        except Exception as error:
            await self.stop_for(error)
            raise


def _faust_settings(settings: Settings) -> dict[str, Any]:
    static = settings.consumer_instance_id is not None
    return {
        "broker": [f"kafka://{address}" for address in settings.kafka.split(",")],
        "broker_credentials": _credentials(settings.kafka_security),
        "broker_session_timeout": STATIC_SESSION_TIMEOUT_S if static else SESSION_TIMEOUT_S,
        "consumer_group_instance_id": settings.consumer_instance_id,
        "broker_heartbeat_interval": HEARTBEAT_S,
        "broker_commit_interval": COMMIT_INTERVAL_S,
        "consumer_metadata_max_age_ms": int(1000 * METADATA_S),
        "consumer_auto_offset_reset": "earliest",
        "consumer_max_fetch_size": FETCH_BYTES,
        "stream_buffer_maxsize": QUEUED_CHUNKS,
        "stream_wait_empty": True,
        "topic_allow_declare": False,
        "topic_disable_leader": True,
        "web_enabled": False,
        "processing_guarantee": "at_least_once",
        "Worker": _Worker,
    }


def _credentials(security: KafkaSecurity) -> Credentials | None:
    """Say in Faust's words how the brokers are reached. Raises KafkaSecurityError."""
    arguments = security.client_arguments()
    context = arguments.get("ssl_context")
    if "sasl_mechanism" in arguments:
        return SASLCredentials(
            username=arguments["sasl_plain_username"],
            password=arguments["sasl_plain_password"],
            mechanism=arguments["sasl_mechanism"],
            ssl_context=context,
        )
    return None if context is None else SSLCredentials(context)


def build_app(settings: Settings, build: Callable[[Settings], Pipeline] = build_pipeline) -> WorkerApp:
    """Return the application with its agents."""
    app = WorkerApp(settings, build)
    add_events_agent(app)
    add_feedback_agent(app)
    add_policy_agent(app)
    return app


class _Worker(faust.Worker):
    """Faust's process, with the logs as they were set up and the watchdog's exit code."""

    def execute_from_commandline(self) -> NoReturn:
        try:
            super().execute_from_commandline()
        except SystemExit as ended:
            wanted = self.app.watchdog.reason is not None
            raise SystemExit(RESTART_EXIT_CODE if wanted else ended.code) from None
        raise SystemExit  # Faust's own never comes here, but does not say so

    def _schedule_shutdown(self, signal: signal.Signals) -> None:
        self.app.watchdog.expect_end()
        super()._schedule_shutdown(signal)

    def _setup_logging(self) -> None:
        logging.getLogger("kafka").setLevel(logging.WARNING)


def run_worker(app: WorkerApp) -> None:
    """Run the application until it is stopped; exits the process (1 after a failure, 75: start it again)."""
    _Worker(app, loglevel="INFO", redirect_stdouts=False).execute_from_commandline()


def __getattr__(name: str) -> Any:
    """Make `app` when Faust's own command line asks for it, with the settings of the environment."""
    if name != "app":
        raise AttributeError(name)
    path = os.environ.get("MODELWARDEN_SETTINGS")
    settings = load_settings(Path(path) if path else None, os.environ)
    setup_logs(settings.log)
    made = build_app(settings)
    globals()["app"] = made
    return made
