"""What the middleware adds to a request at 1,000 requests a second: broker up, slow (stopped) and down.

    python tests/bench/middleware_latency.py [--seconds 5] [--rounds 5] [--queued-bytes 33554432]

Bare and wrapped requests take turns in one run, in one process and on one event loop, so that whatever else
the machine does falls on both alike: what is added is the difference within a pair, and the figure the median
of the rounds. "none" has two bare requests in each pair: the noise floor. A request is the application's own
handler: no network. The wrapped one looks one of 1,000 keys up, hands 784 numbers and an answer over, and the
events of a thousand of them a second are made and sent meanwhile. The broker is real, and stopped by SIGSTOP
to be slow. "begins late" shows what the threads take from requests that have not begun: compare with "none".
With --queued-bytes 1048576 the queue is full within seconds while the broker is slow or down: events are shed
and dropped throughout.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sinks.serving.emitter import DEFAULT_QUEUED_BYTES
from sinks.serving.middleware import App, ModelwardenMiddleware
from sinks.serving.settings import ServingSettings
from sinks.serving.warden import Warden
from sinks.signing import generate_key
from streams.localkafka import LocalKafka
from streams.topics import create_topics

if TYPE_CHECKING:
    from numpy.typing import NDArray

RATE = 1_000
KEYS = 1_000
PIXELS = np.random.default_rng(0).random(784)
ANSWER = np.full(10, 0.1)
HEADERS = [(b"host", b"x"), (b"accept", b"*/*")]


async def answer(scope: Any, _receive: Any, send: Any) -> None:
    """Serve one request, as an application that observes its call if there is something to tell."""
    call = scope.get("state", {}).get("modelwarden")
    if call is not None:
        call.observe(inputs=PIXELS, probabilities=ANSWER)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


async def receive() -> Any:
    """Give no body."""
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(_message: Any) -> None:
    """Drop the answer."""


async def measure(wrapped: App | None, seconds: float) -> NDArray[np.float64]:
    """Make pairs of a bare and a wrapped request at the rate, either first in turn.

    Returns microseconds (n, 5): wall and CPU time of this thread for the bare one, the same for the wrapped
    one, and how late the pair began.
    """
    spent = np.zeros((int(seconds * RATE), 5))
    started = time.perf_counter()
    for number, row in enumerate(spent):
        due = started + number / RATE
        time.sleep(max(due - time.perf_counter(), 0))  # noqa: ASYNC251 - finer than the loop's milliseconds
        row[4] = (time.perf_counter() - due) * 1e6
        for place in (0, 2) if number % 2 else (2, 0):
            app = answer if place == 0 or wrapped is None else wrapped
            headers = [*HEADERS, (b"authorization", b"Bearer sk-customer-%09d" % (number * 7919 % KEYS))]
            scope = {"type": "http", "method": "POST", "path": "/predict", "headers": headers}
            cpu, wall = time.thread_time_ns(), time.perf_counter_ns()
            await app(scope, receive, send)
            row[place] = (time.perf_counter_ns() - wall) / 1000
            row[place + 1] = (time.thread_time_ns() - cpu) / 1000
    return spent


def describe(rounds: list[NDArray[np.float64]], name: str) -> None:
    """Print what the wrapped one of a pair took more, and how far two alike differ."""
    for kind, bare, wrapped in (("wall", 0, 2), ("cpu", 1, 3)):
        added = [np.percentile(r[:, wrapped] - r[:, bare], (50, 99)) for r in rounds]
        alike = [np.percentile(r[2::4, wrapped] - r[: len(r[2::4]) * 4 : 4, wrapped], 99) for r in rounds]
        p50, p99 = np.median(added, axis=0)
        print(f"broker {name:<6} {kind:<5} added p50 {p50:6.1f} us, p99 {p99:6.1f} us "
              f"(of rounds {min(a[1] for a in added):.1f} to {max(a[1] for a in added):.1f}); "
              f"two wrapped ones differ by p99 {np.median(alike):.1f} us")  # fmt: skip
    late = np.median([np.percentile(r[:, 4], (50, 99)) for r in rounds], axis=0)
    print(f"broker {name:<6} begins late p50 {late[0]:6.1f} us, p99 {late[1]:6.1f} us", flush=True)


def run(kafka: str, folder: Path, plan: argparse.Namespace, broker: str) -> None:
    """Measure against one state of the broker and print."""
    settings = ServingSettings(
        model="digits",
        kafka=kafka,
        topic_prefix="bench.",
        key_secret_file=folder / "secret",
        trusted_keys=folder / "signing.pem.pub",
        queued_bytes=plan.queued_bytes,
    )
    warden = Warden(settings)
    warden.start()
    if broker == "up":
        warden.enforcer.follower.wait_until_ready(30)
    app = ModelwardenMiddleware(answer, warden=warden)
    asyncio.run(measure(app, 2))  # every key is known, connections stand
    cpu = time.process_time()
    rounds = [asyncio.run(measure(app, plan.seconds)) for _ in range(plan.rounds)]
    cpu_us = (time.process_time() - cpu) / (plan.rounds * plan.seconds * RATE) * 1e6
    describe(rounds, broker)
    events = warden.events
    print(
        f"broker {broker:<6} events: {events.emitted:,} stored, {len(events):,} queued, dropped "
        f"{dict(events.dropped)}, shed {dict(events.backlog.shed)}; "
        f"all threads {cpu_us:.0f} us of CPU a pair",
        flush=True,
    )
    if broker != "slow":  # a stopped broker would keep the threads for their timeouts
        warden.stop()


def main() -> None:
    """Measure all three states."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="Of each round.")
    parser.add_argument("--rounds", type=int, default=5, help="For each state of the broker.")
    parser.add_argument("--queued-bytes", type=int, default=DEFAULT_QUEUED_BYTES)
    plan = parser.parse_args()
    alone = [asyncio.run(measure(None, plan.seconds)) for _ in range(plan.rounds)]
    describe(alone, "none")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "secret").write_text("0123456789abcdef" * 4)
        generate_key(folder / "signing.pem")
        node = LocalKafka(folder / "kafka", tell=print)
        address = node.start()
        try:
            create_topics(address, prefix="bench.", partitions=2)
            run(address, folder, plan, "up")
            pid = node.status().pid or 0
            os.kill(pid, signal.SIGSTOP)
            try:
                run(address, folder, plan, "slow")
            finally:
                os.kill(pid, signal.SIGCONT)
        finally:
            node.stop()
        run("127.0.0.1:1", folder, plan, "down")
    os._exit(0)  # the threads of the stopped broker's clients need not be waited for


if __name__ == "__main__":
    main()
