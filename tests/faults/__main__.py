"""Run the fault matrix; see the package's docstring."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from kafka import KafkaProducer
from kafka.errors import KafkaError

from sinks.records import Feedback
from streams.bus.base import BusError
from streams.bus.kafka import KafkaBus
from streams.errors import ModelwardenError
from streams.settings import load_settings
from streams.topics import create_topics

sys.path.insert(0, str(Path(__file__).parents[1] / "streams"))
from worker_deployment import Deployment

from .cluster import Broker, Workers, wait
from .faults import FAULTS, PARTITIONS, WORKERS, World
from .truth import compare, read_truth

if TYPE_CHECKING:
    from collections.abc import Iterator

KEYS = 200
EVENTS_PER_S = 200
SEND_S = 10.0
PROGRESS_S = 120.0
START_S = 300.0
"""The first worker may have to compile."""
RECOVER_S = 240.0
STOPPED = (0, -signal.SIGTERM)
"""How a worker ends that is asked to; by the signal itself if it had only begun to start."""


class Traffic(threading.Thread):
    """Sends events at an even rate until it is stopped, whatever becomes of the broker."""

    def __init__(self, address: str, prefix: str, seed: int) -> None:
        super().__init__(name="traffic", daemon=True)
        self._address, self._prefix = address, prefix
        self._draw = random.Random(seed)
        self._stopped = threading.Event()
        self._number = 0

    def run(self) -> None:
        """Send; what is lost or sent twice here does not matter: the topic tells the truth."""
        while not self._stopped.is_set():
            with suppress(KafkaError):
                producer = KafkaProducer(bootstrap_servers=self._address, max_block_ms=5000, linger_ms=20)
                try:
                    self._feed(producer)
                finally:
                    producer.close(timeout=1)
            self._stopped.wait(1)

    def _feed(self, producer: Any) -> None:
        """Send until stopped; raise if something is not stored after a while: connect anew then."""
        while not self._stopped.wait(0.1):
            sent = [self._send(producer) for _ in range(EVENTS_PER_S // 10)]
            sent[-1].get(timeout=SEND_S)

    def _send(self, producer: Any) -> Any:
        self._number += 1
        key = f"k0-{self._draw.randrange(KEYS):032x}"
        value = b"no number" if self._number % 97 == 0 else b"%d" % self._number
        if self._number % 500 == 0:
            record = Feedback(key=key, verdict="honest", author="ann", reason="known", time_ms=self._number)
            producer.send(f"{self._prefix}feedback", msgspec.json.encode(record), key=key.encode())
        return producer.send(f"{self._prefix}events", value, key=key.encode())

    def stop(self) -> None:
        """Send what is under way and end."""
        self._stopped.set()
        self.join(60)


@contextmanager
def round_world(broker: Broker, folder: Path, seed: int) -> Iterator[tuple[World, Traffic]]:
    """Make topics, workers and traffic of one round."""
    prefix = f"faults{seed}-{time.monotonic_ns() % 10**6}."
    folder.mkdir(parents=True)
    environ = os.environ | {
        "MODELWARDEN_KAFKA": broker.address,
        "MODELWARDEN_TOPIC_PREFIX": prefix,
        "MODELWARDEN_CONSUMER_GROUP": f"{prefix}group",
        "MODELWARDEN_SNAPSHOT_INTERVAL_S": "1",
        "COUNTS_DIR": str(folder),
        "PADDING_BYTES": "2000",
    }
    create_topics(broker.address, prefix=prefix, partitions=PARTITIONS)
    settings = load_settings(None, {k: v for k, v in environ.items() if k.startswith("MODELWARDEN_")})
    deployment = Deployment(KafkaBus(broker.address, timeout_s=60), prefix, folder, environ)
    workers = Workers(environ, folder)
    draw = random.Random(seed)
    traffic = Traffic(broker.address, prefix, seed)
    traffic.start()
    workers.scale(WORKERS)
    try:
        yield World(broker, workers, deployment, draw, settings), traffic
    finally:
        traffic.stop()
        workers.stop()
        deployment.bus.close()


def progressed(world: World, timeout_s: float = PROGRESS_S) -> bool:
    """Wait until another alert is written."""
    before = reached(world)
    return wait(lambda: reached(world) > before, timeout_s, 0.5)


def reached(world: World) -> int:
    """How many alerts stand on the topic; -1 if the broker does not say."""
    try:
        return world.deployment.size("alerts")
    except BusError:
        return -1


def is_caught_up(world: World) -> bool:
    try:
        return world.deployment.is_stored()
    except (BusError, OSError, ModelwardenError):  # a snapshot read while the next one replaces it
        return False


def run_round(broker: Broker, folder: Path, seed: int, kinds: list[str]) -> dict[str, Any]:
    """Do these faults, let everything recover, compare; return what happened."""
    start = time.monotonic()
    wrong: list[str] = []
    with round_world(broker, folder, seed) as (world, traffic):
        if not progressed(world, START_S):
            wrong.append("the workers did not start")
        for kind in kinds:
            began = time.monotonic()
            FAULTS[kind][1](world)
            did_s, ok = time.monotonic() - began, progressed(world)
            print(
                f"    {kind:28} {did_s:5.1f} s, going on after {time.monotonic() - began - did_s:5.1f} s",
                flush=True,
            )
            if not ok:
                wrong.append(f"stood still for {PROGRESS_S:.0f} s after: {kind}")
        traffic.stop()
        if not wait(lambda: is_caught_up(world), RECOVER_S, 1):
            wrong.append(f"not all events were in the state {RECOVER_S:.0f} s after the last fault")
        codes = world.workers.stop()
        wrong += [
            f"a worker ended with code {code} when it was stopped" for code in codes if code not in STOPPED
        ]
        truth = read_truth(world.deployment)
        different, doubled = compare(world.deployment, truth)
        log = (folder / "log").read_text(encoding="utf-8", errors="replace")
        return {
            "seed": seed,
            "kinds": kinds,
            "wrong": wrong + different,
            "events": truth.events,
            "alerts": len(truth.alerts),
            "written_twice": doubled,
            "exits": dict(Counter(str(code) for code in world.workers.ended)),
            "fallbacks": log.count("snapshot_skipped"),
            "minutes": round((time.monotonic() - start) / 60, 1),
        }


def deal(seed: int, count: int, only: list[str]) -> list[str]:
    """Draw faults from decks, so that each kind comes as often as it should."""
    draw = random.Random(seed)
    kinds: list[str] = []
    while len(kinds) < count:
        deck = [name for name, (many, _) in FAULTS.items() if not only or name in only for _ in range(many)]
        draw.shuffle(deck)
        kinds += deck
    return kinds[:count]


def print_table(results: list[dict[str, Any]]) -> None:
    """Print what was done and what went wrong."""
    done = Counter(kind for result in results for kind in result["kinds"])
    bad = Counter(kind for result in results if result["wrong"] for kind in set(result["kinds"]))
    print(f"\n{'fault':30} done   in rounds that went wrong")
    for kind in FAULTS:
        if done[kind]:
            print(f"{kind:30} {done[kind]:4}   {bad[kind]}")
    total = {
        name: sum(r[name] for r in results) for name in ("events", "alerts", "written_twice", "fallbacks")
    }
    exits: Counter[str] = sum((Counter(r["exits"]) for r in results), Counter())
    print(
        f"\n{done.total()} faults in {len(results)} rounds, {total['events']:,} events, "
        f"{total['alerts']:,} alerts and as many commands\n"
        f"written twice under one id: {total['written_twice']}; damaged snapshots passed over: "
        f"{total['fallbacks']}; exit codes of workers: {dict(exits)}"
    )
    for result in results:
        for line in result["wrong"]:
            print(f"WRONG in round of seed {result['seed']}: {line}")
    print(
        "every key, alert, command and dead letter right"
        if not any(r["wrong"] for r in results)
        else "FAILED"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description="Hurt real workers and a real broker, and compare the outcome with true counts.",
        epilog="examples:\n  python -m tests.faults --faults 12 --seed 1\n"
        "  python -m tests.faults --faults 200 --results faults.jsonl   # goes on where it was cut short\n"
        '  python -m tests.faults --faults 5 --only "disk full" --only "kill -9"',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--faults", type=int, default=12)
    parser.add_argument("--per-round", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", default=[], choices=list(FAULTS))
    parser.add_argument(
        "--results",
        type=Path,
        help="rounds done are kept here, and not done again; beside it the log of a round that went wrong",
    )
    parser.add_argument("--keep", type=Path, help="folder for logs; by default one that is deleted")
    return parser.parse_args()


def main() -> None:
    """Run the rounds; exit code 1 if anything was wrong."""
    chosen = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the broker is stopped then, too
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    kinds = deal(chosen.seed, chosen.faults, chosen.only)
    results = []
    if chosen.results is not None and chosen.results.exists():
        results = [json.loads(line) for line in chosen.results.read_text(encoding="utf-8").splitlines()]
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        folder = chosen.keep or Path(scratch)
        broker = Broker(Path(scratch) / "kafka")
        try:
            broker.start()
            for start in range(len(results) * chosen.per_round, len(kinds), chosen.per_round):
                number = start // chosen.per_round
                seed = 1000 * chosen.seed + number
                # Last: after a kill -9 of the broker, Kafka cuts a log where it is damaged. That is lost.
                now = sorted(
                    kinds[start : start + chosen.per_round], key=lambda kind: kind == "damaged state"
                )
                print(
                    f"round {number + 1}, seed {seed}: faults {start + 1} to {start + len(now)}", flush=True
                )
                result = run_round(broker, folder / f"round{seed}", seed, now)
                results.append(result)
                told = "; ".join(result["wrong"]) or "all right"
                if result["wrong"] and chosen.results is not None:
                    shutil.copy(folder / f"round{seed}" / "log", chosen.results.with_suffix(f".{seed}.log"))
                print(f"  {told} ({result['events']:,} events, {result['minutes']} min)", flush=True)
                if chosen.results is not None:
                    with chosen.results.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(result) + "\n")
        finally:
            broker.close()
    print_table(results)
    sys.exit(1 if any(result["wrong"] for result in results) else 0)


if __name__ == "__main__":
    main()
