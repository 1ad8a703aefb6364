"""10,000 annotations over an outage of Grafana of 5 minutes, the sink killed with kill -9 meanwhile.

    python tests/bench/annotation_outage.py [--annotations 10000] [--outage 300] [--kills 10]

Needs Java and Maven, or MODELWARDEN_KAFKA=host:port. Prints what became of every annotation; exit code 1 if
one arrived twice or is not accounted for.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import msgspec

sys.path[:0] = [str(Path(__file__).parents[1] / name) for name in ("oncall", "sinks")]

from outage import run_outage  # noqa: E402 - after the path

from streams.localkafka import LocalKafka  # noqa: E402 - same


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--annotations", type=int, default=10_000)
    parser.add_argument("--outage", type=float, default=300.0, help="seconds")
    parser.add_argument("--kills", type=int, default=10)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        node = LocalKafka(Path(folder) / "kafka", tell=print)
        kafka = os.environ.get("MODELWARDEN_KAFKA") or node.start()
        try:
            report = run_outage(
                kafka,
                Path(folder),
                annotations=given.annotations,
                outage_s=given.outage,
                kills=given.kills,
                tell=lambda said: print(said, flush=True),
            )
        finally:
            node.stop()
    for name, value in msgspec.structs.asdict(report).items():
        print(f"{name:12} {value:,.1f}" if isinstance(value, float) else f"{name:12} {value:,}")
    return 1 if report.doubled or report.unaccounted else 0


if __name__ == "__main__":
    sys.exit(main())
