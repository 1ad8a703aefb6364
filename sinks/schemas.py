"""JSON Schemas of every record, generated from their types into `deploy/schemas`.

`python -m sinks.schemas` writes them; `python -m sinks.schemas --check` exits 1 if the files have drifted.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import msgspec

from detectors.alert import Alert
from sinks.policyfile import Policy
from sinks.policytopic import SignedPolicy
from sinks.records import (
    Acknowledgement,
    Allow,
    AuditEntry,
    Command,
    DeadLetter,
    Decision,
    Feedback,
    Notice,
    OperatorAction,
    ServingEvent,
)
from sinks.rules import RuleFile

RECORDS: dict[str, type[msgspec.Struct]] = {
    "serving-event": ServingEvent,
    "alert": Alert,
    "decision": Decision,
    "command": Command,
    "acknowledgement": Acknowledgement,
    "feedback": Feedback,
    "operator-action": OperatorAction,
    "allow": Allow,
    "audit-entry": AuditEntry,
    "notice": Notice,
    "signed-policy": SignedPolicy,
    "rule": RuleFile,
    "policy": Policy,
    "dead-letter": DeadLetter,
}
"""Every record that crosses a topic, and what authors of policies write, by the name of its schema file."""

FOLDER = Path(__file__).resolve().parent.parent / "deploy" / "schemas"


def record_schema(name: str) -> dict[str, Any]:
    """Return a record's JSON Schema, self-contained. Raises KeyError for an unknown record."""
    schema = msgspec.json.schema(RECORDS[name])
    own: dict[str, Any] = schema["$defs"].pop(RECORDS[name].__name__)
    top = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:modelwarden:{name}:v1",
    }
    return top | own | ({"$defs": schema["$defs"]} if schema["$defs"] else {})


def schema_files() -> dict[str, bytes]:
    """Return every schema file's name and content."""
    return {
        f"{name}.v1.json": msgspec.json.format(msgspec.json.encode(record_schema(name), order="sorted"))
        + b"\n"
        for name in RECORDS
    }


def drifted(folder: Path = FOLDER) -> list[str]:
    """Return the names of schema files that are missing, stale or no record's."""
    wanted = schema_files()
    found = {path.name: path.read_bytes() for path in folder.glob("*.json")}
    return sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))


def main(arguments: list[str] | None = None) -> int:
    """Write the schemas, or check them."""
    parser = argparse.ArgumentParser(prog="python -m sinks.schemas", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file has drifted")
    if parser.parse_args(arguments).check:
        names = drifted()
        if names:
            sys.stderr.write(f"deploy/schemas: {', '.join(names)} drifted. Run `python -m sinks.schemas`.\n")
        return 1 if names else 0
    FOLDER.mkdir(exist_ok=True)
    for name, content in schema_files().items():
        (FOLDER / name).write_bytes(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
