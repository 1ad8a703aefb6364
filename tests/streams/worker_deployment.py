"""A deployment for tests: topics of its own on a real broker, and worker processes that may be killed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from counting_worker import read_counts

from sinks.signing import load_signer
from sinks.trustedkeys import trust
from streams.bus.kafka import KafkaBus
from streams.publish import Publisher
from streams.settings import Settings
from streams.statestore import StateStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sinks.policyfile import Policy
    from sinks.policytopic import SignedPolicy
    from streams.bus.base import Message
    from streams.snapshot import Manifest

PARTITIONS = 4
COUNTING = Path(__file__).parent / "counting_worker.py"


@dataclass
class Deployment:
    """Topics of its own on the broker, and the worker processes started on them."""

    bus: KafkaBus
    prefix: str
    folder: Path
    environ: dict[str, str]
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8")

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            worker = subprocess.Popen(command, env=self.environ, stderr=log, stdout=log)
        self.workers.append(worker)
        return worker

    def start_counting(self) -> subprocess.Popen[bytes]:
        return self.start(sys.executable, str(COUNTING))

    def start_real(self) -> subprocess.Popen[bytes]:
        return self.start(sys.executable, "-c", "from streams.cli import main; main()", "worker")

    def start_faust(self) -> subprocess.Popen[bytes]:
        return self.start(sys.executable, "-m", "faust", "-A", "streams.app", "worker", "-l", "info")

    def members(self) -> int:
        """How many workers are ready in the newest generation of the group."""
        generations = [int(found) for found in re.findall(r"worker_ready.*generation=(\d+)", self.log)]
        return generations.count(max(generations, default=0))

    def size(self, topic: str) -> int:
        return sum(self.bus.end_offsets(self.prefix + topic).values())

    def read(self, topic: str) -> list[Message]:
        return [message for chunk in self.bus.read([self.prefix + topic]) for message in chunk]

    def ids(self, topic: str) -> list[str]:
        return [dict(message.headers)["id"].decode() for message in self.read(topic)]

    def counts(self) -> Counter[str]:
        """What the counting workers held when they last made a snapshot, of each partition the furthest."""
        furthest: dict[str, Counter[str]] = {}
        for path in self.folder.glob("*-*.json"):
            held: Counter[str] = Counter(json.loads(path.read_bytes()))
            partition = path.name.partition("-")[0]
            furthest[partition] = max(held, furthest.get(partition, held), key=Counter.total)
        return sum(furthest.values(), Counter())

    def snapshots(self) -> dict[int, tuple[Manifest, dict[str, bytes]]]:
        """The newest snapshot of each partition, as a worker would restore it."""
        settings = Settings(kafka=self.environ["MODELWARDEN_KAFKA"], topic_prefix=self.prefix)

        async def read() -> dict[int, tuple[Manifest, dict[str, bytes]]]:
            store = StateStore(settings)
            found = await store.find(range(PARTITIONS))
            read = {partition: await store.read(snapshots) for partition, snapshots in found.items()}
            return {partition: restored for partition, restored in read.items() if restored is not None}

        return asyncio.run(read())

    def stored_counts(self) -> Counter[str]:
        return sum((read_counts(parts) for _, parts in self.snapshots().values()), Counter())

    def is_stored(self) -> bool:
        """Whether the newest snapshots contain every event."""
        events = f"{self.prefix}events"
        stored = {
            partition: manifest.meta.fences.get(events, -1) + 1
            for partition, (manifest, _) in self.snapshots().items()
        }
        return all(stored.get(partition, 0) == end for partition, end in self.bus.end_offsets(events).items())

    def publish_policy(self, policy: Policy) -> SignedPolicy:
        """Sign a policy with the worker's own key and publish it."""
        signer = load_signer(Path(self.environ["MODELWARDEN_SIGNING_KEY_FILE"]))
        publisher = Publisher(self.bus, Settings(topic_prefix=self.prefix), trust(signer))
        return publisher.policy(signer, policy, author="ann", reason="a test", now_ms=1)

    def wait(self, what: Callable[[], bool], timeout_s: float = 90) -> None:
        deadline = time.monotonic() + timeout_s
        while not what():
            ended = {worker.poll() for worker in self.workers} - {None, 0, -signal.SIGKILL}
            assert not ended, self.log[-8000:]
            assert time.monotonic() < deadline, self.log[-8000:]
            time.sleep(0.05)


@contextmanager
def deployed(kafka: str, folder: Path, **environ: str) -> Iterator[Deployment]:
    """Give a deployment without topics yet, its settings in the environment; kill its workers at the end."""
    prefix = f"test-{uuid4().hex[:8]}."
    known = {
        "MODELWARDEN_KAFKA": kafka,
        "MODELWARDEN_TOPIC_PREFIX": prefix,
        "MODELWARDEN_CONSUMER_GROUP": f"{prefix}group",
        "MODELWARDEN_SNAPSHOT_INTERVAL_S": "0.5",
        "COUNTS_DIR": str(folder),
    }
    made = Deployment(KafkaBus(kafka), prefix, folder, os.environ | known | environ)
    try:
        yield made
    finally:
        for worker in made.workers:
            worker.kill()
            worker.wait()
        made.bus.close()
