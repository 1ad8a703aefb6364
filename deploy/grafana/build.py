"""Makes the dashboards, with Grafana's own SDK: `python -m deploy.grafana.build` (test environment).

The JSON it writes to `deploy/grafana/dashboards` is what is shipped; nothing at run time needs the SDK. Panel
ids are part of the contract with the alert rules, which link to them: never change one.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana.health import health
from deploy.grafana.onekey import one_key
from deploy.grafana.security import security

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = Path(__file__).resolve().parent / "dashboards"

BUILDERS: tuple[Callable[[], Any], ...] = (health, security, one_key)


def dashboards() -> dict[str, bytes]:
    """Return every dashboard's file name and content."""
    made = [json.loads(JSONEncoder().encode(builder().build())) for builder in BUILDERS]
    return {f"{d['uid']}.json": json.dumps(d, indent=1, sort_keys=True).encode() + b"\n" for d in made}


def main(arguments: list[str] | None = None) -> int:
    """Write the dashboards, or check them."""
    parser = argparse.ArgumentParser(prog="python -m deploy.grafana.build", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file has drifted")
    check = parser.parse_args(arguments).check
    made = dashboards()
    drifted = [
        n for n, text in made.items() if not (FOLDER / n).exists() or (FOLDER / n).read_bytes() != text
    ]
    for name in drifted:
        if check:
            sys.stderr.write(f"{name} drifted. Run `python -m deploy.grafana.build`.\n")
        else:
            FOLDER.mkdir(exist_ok=True)
            (FOLDER / name).write_bytes(made[name])
    return 1 if check and drifted else 0


if __name__ == "__main__":
    sys.exit(main())
