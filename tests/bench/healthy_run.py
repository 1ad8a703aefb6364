"""A healthy deployment, for ten minutes, under the shipped rules with their own durations: nobody is called.

    python tests/bench/healthy_run.py [--minutes 10] [--pictures FOLDER]

Real worker, canary and annotation writer on a real Kafka (Java and Maven, or MODELWARDEN_KAFKA=host:port),
real Prometheus and Alertmanager (`make packages`); honest keys of the sample at 200 events a second. It ends
with a theft, which must page within 60 s. Exit code 1 if anybody was called before, or nobody then.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / name) for name in ("oncall", "sinks")]

from pictures import draw_boards  # noqa: E402 - after the path
from stack import Stack  # noqa: E402 - same
from test_real_servers import Traffic, send_trace  # noqa: E402 - same

from streams.localkafka import LocalKafka  # noqa: E402 - same
from streams.samples import load_sample  # noqa: E402 - same

PAGE_S = 60.0


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--pictures", type=Path, help="folder for the dashboards as HTML")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        node = LocalKafka(Path(folder) / "kafka", tell=print)
        stack = Stack(Path(folder), os.environ.get("MODELWARDEN_KAFKA") or node.start(), divisor=1.0)
        try:
            stack.start()
            return watch(stack, given.minutes, given.pictures)
        finally:
            stack.stop()
            node.stop()


def watch(stack: Stack, minutes: float, pictures: Path | None) -> int:
    """Let it be, then steal."""
    sample = load_sample()
    traffic = Traffic(stack, [t for t in sample if t.attack is None and t.victim == "mnist"][:20], 200)
    for minute in range(1, round(minutes) + 1):
        time.sleep(60)
        print(f"minute {minute}: called {_called(stack) or 'nobody'}", flush=True)
    called = _called(stack)
    begin_s = time.monotonic()
    key = send_trace(stack, next(t for t in sample if t.attack == "uniform" and t.victim == "mnist"), 300)
    while not stack.told("KeyExtraction") and time.monotonic() < begin_s + PAGE_S:
        time.sleep(0.1)
    pages = stack.told("KeyExtraction")
    told = f"after {pages[0].time_s - begin_s:.1f} s" if pages else "NEVER"
    print(f"theft paged {told}; heartbeats {len(stack.told('Watchdog'))}")
    if pictures is not None:
        time.sleep(10)
        pictures.mkdir(parents=True, exist_ok=True)
        for page in draw_boards(stack, pictures, range_s=round(60 * minutes) + 20, key_ref=key):
            print(f"drawn {page}")
    traffic.stop()
    return 1 if called or not pages else 0


def _called(stack: Stack) -> list[str]:
    return sorted({n.labels["alertname"] for n in stack.notifications if n.receiver != "heartbeat"})


if __name__ == "__main__":
    sys.exit(main())
