"""What the middleware adds to a request at 1,000 requests a second: broker up, slow (stopped) and down.

    python tests/bench/middleware_latency.py [--seconds 10]

Bare and wrapped requests take turns in one run, in one process and on one event loop, so that whatever else
the machine does falls on both alike. A request is the application's own handler: no network. The wrapped one
looks the key up, sketches 784 numbers, and queues its event; the broker is real, and stopped by SIGSTOP to be
slow.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from sinks.serving.middleware import App, ModelwardenMiddleware
from sinks.serving.settings import ServingSettings
from sinks.serving.warden import Warden
from sinks.signing import generate_key
from streams.localkafka import LocalKafka
from streams.topics import create_topics

RATE = 1_000
WARM_UP = 500
PIXELS = np.random.default_rng(0).random(784)
ANSWER = np.full(10, 0.1)
HEADERS = [(b"host", b"x"), (b"accept", b"*/*"), (b"authorization", b"Bearer sk-customer-000000001")]


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


async def measure(wrapped: App, seconds: float) -> dict[str, np.ndarray[Any, Any]]:
    """Make requests at the rate, bare and wrapped in turn; return nanoseconds, of wall and of this thread."""
    apps: tuple[tuple[str, App], ...] = (("bare", answer), ("wrapped", wrapped))
    spent: dict[str, list[int]] = {f"{name} {kind}": [] for name, _ in apps for kind in ("wall", "cpu")}
    started = time.perf_counter()
    for number in range(int(seconds * RATE) * 2 + WARM_UP):
        name, app = apps[number % 2]
        ahead = started + number / (2 * RATE) - time.perf_counter()
        if ahead > 0:
            await asyncio.sleep(ahead)
        scope = {"type": "http", "method": "POST", "path": "/predict", "headers": HEADERS}
        cpu, wall = time.thread_time_ns(), time.perf_counter_ns()
        await app(scope, receive, send)
        if number >= WARM_UP:
            spent[f"{name} wall"].append(time.perf_counter_ns() - wall)
            spent[f"{name} cpu"].append(time.thread_time_ns() - cpu)
    return {name: np.array(values) / 1000 for name, values in spent.items()}


def run(kafka: str, folder: Path, seconds: float, broker: str) -> None:
    """Measure against one state of the broker and print."""
    settings = ServingSettings(
        model="digits",
        kafka=kafka,
        topic_prefix="bench.",
        key_secret_file=folder / "secret",
        trusted_keys=folder / "signing.pem.pub",
    )
    warden = Warden(settings)
    warden.start()
    if broker == "up":
        warden.enforcer.follower.wait_until_ready(30)
    spent = asyncio.run(measure(ModelwardenMiddleware(answer, warden=warden), seconds))
    for kind in ("wall", "cpu"):
        bare, wrapped = spent[f"bare {kind}"], spent[f"wrapped {kind}"]
        p50, p99 = (np.percentile(wrapped, q) - np.percentile(bare, q) for q in (50, 99))
        print(f"broker {broker:<5} {kind:<5} added p50 {p50:6.1f} us, p99 {p99:7.1f} us  "
              f"(bare p99 {np.percentile(bare, 99):.1f}, {len(wrapped):,} requests)")  # fmt: skip
    if broker != "slow":  # a stopped broker would keep the threads for their timeouts
        warden.stop()


def main() -> None:
    """Measure all three states."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="Of each state.")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "secret").write_text("0123456789abcdef" * 4)
        generate_key(folder / "signing.pem")
        node = LocalKafka(folder / "kafka", tell=print)
        address = node.start()
        try:
            create_topics(address, prefix="bench.", partitions=2)
            run(address, folder, seconds, "up")
            pid = node.status().pid or 0
            os.kill(pid, signal.SIGSTOP)
            try:
                run(address, folder, seconds, "slow")
            finally:
                os.kill(pid, signal.SIGCONT)
        finally:
            node.stop()
        run("127.0.0.1:1", folder, seconds, "down")
    os._exit(0)  # the threads of the stopped broker's clients need not be waited for


if __name__ == "__main__":
    main()
