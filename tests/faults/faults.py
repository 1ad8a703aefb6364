"""The faults, one function each: it does its harm, and has ended it when it returns."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streams.statestore import StateStore

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

    from worker_deployment import Deployment

    from streams.settings import Settings

    from .cluster import Broker, Workers

PARTITIONS = 4
WORKERS = 2
MOST_WORKERS = 4
SESSION_TIMEOUT_S = 6.0
_BATCH_HEAD_BYTES = 27


@dataclass
class World:
    """What a fault may touch."""

    broker: Broker
    workers: Workers
    deployment: Deployment
    draw: random.Random
    settings: Settings

    def sleep(self, least_s: float, most_s: float) -> None:
        """Wait for some time."""
        time.sleep(self.draw.uniform(least_s, most_s))


def kill_worker(world: World) -> None:
    """End a worker with kill -9, at any moment."""
    world.sleep(0, 2)
    worker = world.workers.pick(world.draw.randrange)
    if worker is not None:
        worker.kill()


def stop_worker(world: World) -> None:
    """Ask a worker to stop (SIGTERM); the supervisor starts another one."""
    worker = world.workers.pick(world.draw.randrange)
    if worker is not None:
        worker.terminate()


def stall_worker(world: World) -> None:
    """Stop a worker past its session timeout, and let it go on as a zombie."""
    worker = world.workers.pick(world.draw.randrange)
    if worker is None:
        return
    worker.send_signal(signal.SIGSTOP)
    world.sleep(SESSION_TIMEOUT_S + 1, SESSION_TIMEOUT_S + 5)
    worker.send_signal(signal.SIGCONT)


def restart_broker(world: World) -> None:
    """Stop the broker and start it again."""
    world.broker.restart()


def kill_broker(world: World) -> None:
    """End the broker with kill -9 and start it again: no leaders for a while, then an unclean start."""
    world.broker.restart(world.draw.uniform(0, 3), clean=False)


def broker_away(world: World) -> None:
    """Take the broker away for 60 seconds."""
    world.broker.restart(60)


def freeze_broker(world: World) -> None:
    """Let the broker accept and not answer for 3 to 20 seconds: leaders that cannot be reached."""
    world.broker.send(signal.SIGSTOP)
    world.sleep(3, 20)
    world.broker.send(signal.SIGCONT)


def cut_network(world: World) -> None:
    """Let nothing pass between the broker and everybody else for 3 to 15 seconds."""
    world.broker.proxy.hearing.clear()
    world.sleep(3, 15)
    world.broker.proxy.hearing.set()


def slow_broker(world: World) -> None:
    """Let 20 to 200 kB a second pass, per connection, for 10 seconds."""
    world.broker.proxy.bytes_per_s = 10 ** world.draw.uniform(4.3, 5.3)
    world.sleep(10, 10)
    world.broker.proxy.bytes_per_s = None


def fill_disk(world: World) -> None:
    """Fill the disk of the broker, state topic and all; then free it, and start the broker if it fell."""
    if not world.broker.has_small_disk:
        return
    world.broker.fill_disk()
    world.sleep(3, 8)
    world.broker.free_disk()
    world.broker.restart(clean=world.broker.status().running)


def storm(world: World) -> None:
    """Let workers come and go, 1 to 4 of them, faster than the group can settle."""
    for _ in range(world.draw.randint(3, 6)):
        world.workers.scale(world.draw.randint(1, MOST_WORKERS))
        world.sleep(0.5, 6)
    world.workers.scale(WORKERS)


def damage_state(world: World) -> None:
    """Flip a bit of a partition's newest snapshot on the broker's disk, and kill all workers."""
    with world.workers.frozen() as workers:
        partition = world.draw.randrange(PARTITIONS)
        store = StateStore(world.settings)
        manifests = asyncio.run(store.find([partition]))[partition].manifests
        parts = manifests[0].parts.values() if manifests else ()
        if offsets := [offset for entry in parts for offset in entry.offsets]:
            folder = world.broker.data / f"{world.settings.topic('state')}-{partition}"
            flip_bit(folder, max(offsets), world.draw)
        for worker in workers:
            worker.kill()
    world.sleep(1, 1)
    world.broker.restart()  # clean: a later kill -9 must not make Kafka cut its log where it is damaged


def flip_bit(folder: Path, offset: int, draw: random.Random) -> None:
    """Damage the record batch at an offset of a partition, in the file."""
    log = max(path for path in folder.glob("*.log") if int(path.stem) <= offset)
    with log.open("r+b") as file:
        place = 0
        while len(head := os.pread(file.fileno(), _BATCH_HEAD_BYTES, place)) == _BATCH_HEAD_BYTES:
            size = 12 + int.from_bytes(head[8:12], "big")
            if int.from_bytes(head[:8], "big") + int.from_bytes(head[23:27], "big") >= offset:
                target = place + size - draw.randint(10, 100)
                (byte,) = os.pread(file.fileno(), 1, target)
                os.pwrite(file.fileno(), bytes([byte ^ 1 << draw.randrange(8)]), target)
                return
            place += size
    raise LookupError(f"offset {offset} is not in {folder}")


def send_garbage(world: World) -> None:
    """Send batches of noise, empty and missing values among the events."""
    draw, topic = world.draw, f"{world.deployment.prefix}events"
    for number in range(draw.randint(20, 200)):
        value = draw.choice((None, b"", draw.randbytes(draw.randint(1, 5000))))
        world.deployment.bus.send(topic, value, key=b"%d" % number)
    world.deployment.bus.flush()


def jump_clock(world: World) -> None:
    """Set the workers' clocks forward or back, by minutes to days."""
    world.workers.jump_clock(world.draw.choice(("60", "-60", "3600", "-3600", "2592000", "-172800", "0")))
    world.sleep(2, 4)


def scale(world: World) -> None:
    """Run 1, 2, 4 and again 1 worker, each for as long as it takes to join."""
    for wanted in (1, 2, 4, 1):
        world.workers.scale(wanted)
        world.sleep(6, 12)
    world.workers.scale(WORKERS)


FAULTS: dict[str, tuple[int, Callable[[World], None]]] = {
    "kill -9": (5, kill_worker),
    "SIGTERM": (3, stop_worker),
    "SIGSTOP beyond the session": (3, stall_worker),
    "rebalance storm": (2, storm),
    "scale 1-2-4-1": (1, scale),
    "broker restart": (1, restart_broker),
    "broker kill -9": (2, kill_broker),
    "broker gone 60 s": (1, broker_away),
    "broker frozen": (2, freeze_broker),
    "network cut": (2, cut_network),
    "slow broker": (2, slow_broker),
    "disk full": (2, fill_disk),
    "damaged state": (3, damage_state),
    "garbage events": (2, send_garbage),
    "clock jump": (2, jump_clock),
}
"""By name: how many of it are in a deck, and how it is done."""
