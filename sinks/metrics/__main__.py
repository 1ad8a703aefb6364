"""`python -m sinks.metrics` writes the catalogue's documents; `--check` exits 1 if they have drifted."""

from __future__ import annotations

import argparse
import sys

from sinks.metrics.documents import documents


def main(arguments: list[str] | None = None) -> int:
    """Write the documents, or check them."""
    parser = argparse.ArgumentParser(prog="python -m sinks.metrics", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file has drifted")
    check = parser.parse_args(arguments).check
    drifted = [
        path for path, content in documents().items() if not path.exists() or path.read_bytes() != content
    ]
    for path in drifted:
        if check:
            sys.stderr.write(f"{path.name} drifted from the catalogue. Run `python -m sinks.metrics`.\n")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(documents()[path])
    return 1 if check and drifted else 0


if __name__ == "__main__":
    sys.exit(main())
