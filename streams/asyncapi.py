"""The AsyncAPI 3 document of the topics, from the code: who writes what to which topic, and its schema.

`python -m streams.asyncapi` writes `deploy/asyncapi.yaml`; with `--check`, exit code 1 if it has drifted.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from sinks.schemas import RECORDS
from streams import __version__
from streams.topics import DEFAULT_PREFIX, TOPICS

DOCUMENT = Path(__file__).parents[1] / "deploy" / "asyncapi.yaml"
Role = Literal["serving", "worker", "operator"]


class Channel(NamedTuple):
    """What crosses one topic."""

    summary: str
    records: tuple[str, ...]
    """Names of schemas in `sinks.schemas.RECORDS`; none where the content is the worker's own."""
    key: str
    writers: tuple[Role, ...]
    readers: tuple[Role, ...]


CHANNELS: dict[str, Channel] = {
    "events": Channel(
        "One served call each, or a micro-batch of them.",
        ("serving-event",), "key reference", ("serving",), ("worker",)),
    "alerts": Channel(
        "Findings about keys and campaigns. An alert decides nothing.",
        ("alert",), "key reference", ("worker",), ("operator",)),
    "decisions": Channel(
        "What the policy made of each alert, sent or withheld.",
        ("decision",), "key reference", ("worker",), ("operator",)),
    "commands": Channel(
        "Signed mitigations with an expiry. Verify the signature before obeying.",
        ("command",), "key reference and model", ("worker",), ("serving", "operator")),
    "acks": Channel(
        "What became of each command.",
        ("acknowledgement",), "key reference", ("serving",), ("worker", "operator")),
    "feedback": Channel(
        "People's words: honest or guilty, approvals, undos and appeals.",
        ("feedback", "operator-action"), "key reference", ("operator",), ("worker",)),
    "policy": Channel(
        "Versions of the policy, signed and numbered; the highest is in force.",
        ("signed-policy",), "version", ("operator",), ("worker",)),
    "allowlist": Channel(
        "Keys that no command touches.",
        ("allow",), "entry's id", ("operator",), ("worker", "serving")),
    "reference": Channel("What a worker has learned of a model's honest keys, to be merged.", (),
                         "model and partition", ("worker",), ("operator",)),
    "state": Channel("The workers' state, in parts.", (), "part", ("worker",), ("worker",)),
    "snapshots": Channel("Which parts make a whole state.", (), "partition", ("worker",), ("worker",)),
    "audit": Channel(
        "A hash chain of everything decided and done.",
        ("audit-entry",), "partition", ("worker",), ("operator",)),
    "dead-letter": Channel(
        "Where refused messages stand and why; never what they held.",
        ("dead-letter",), "place of the message", ("worker",), ("operator",)),
}  # fmt: skip
"""Every topic, by its name without prefix."""


def build() -> dict[str, Any]:
    """Return the document as a tree."""
    return {
        "asyncapi": "3.0.0",
        "id": "urn:modelwarden",
        "info": {
            "title": "Modelwarden",
            "version": __version__,
            "description": "Topics through which served calls are watched and API keys are acted on. Every "
            "topic but policy, allowlist and reference has the partitions of events, and partition p of each "
            "belongs to partition p of events. Names carry a configurable prefix.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "kafka": {
                "host": "{host}",
                "protocol": "kafka-secure",
                "variables": {"host": {"description": "Bootstrap server, host:port."}},
            }
        },
        "channels": {name: _channel(name) for name in CHANNELS},
        "operations": dict(_operations()),
        "components": {
            "messages": {name: _message(name) for name in RECORDS},
        },
    }


def _channel(name: str) -> dict[str, Any]:
    spec = next(topic for topic in TOPICS if topic.name == name)
    config: dict[str, Any] = {"cleanup.policy": ["compact"]} if spec.compacted else {}
    known = {"retention.ms": int, "max.message.bytes": int}
    config |= {key: known[key](value) for key, value in spec.config.items() if key in known}
    kafka: dict[str, Any] = {"topic": f"{DEFAULT_PREFIX}{name}", "bindingVersion": "0.5.0"}
    if not spec.keyed:
        kafka["partitions"] = 1
    if config:
        kafka["topicConfiguration"] = config
    channel: dict[str, Any] = {
        "address": f"{DEFAULT_PREFIX}{name}",
        "summary": CHANNELS[name].summary,
        "description": f"Keyed by {CHANNELS[name].key}.",
    }
    if CHANNELS[name].records:
        channel["messages"] = {
            record: {"$ref": f"#/components/messages/{record}"} for record in CHANNELS[name].records
        }
    return channel | {"bindings": {"kafka": kafka}}


def _operations() -> list[tuple[str, dict[str, Any]]]:
    """List who sends and receives what, as each role sees it."""
    found = []
    for name, channel in CHANNELS.items():
        for action, roles in (("send", channel.writers), ("receive", channel.readers)):
            for role in roles:
                operation = {
                    "action": action,
                    "channel": {"$ref": f"#/channels/{name}"},
                    "tags": [{"name": role}],
                }
                found.append((f"{role}-{action}-{name}", operation))
    return found


def _message(record: str) -> dict[str, Any]:
    return {
        "name": record,
        "contentType": "application/json",
        "payload": {
            "schemaFormat": "application/schema+json;version=draft-2020-12",
            "schema": {"$ref": f"./schemas/{record}.v1.json"},
        },
    }


def document() -> str:
    """Write the document."""
    words = "# Written by `python -m streams.asyncapi` from the code. Do not change it here.\n"
    return words + yaml.safe_dump(build(), sort_keys=False, width=110, allow_unicode=True)


def main(arguments: list[str] | None = None) -> int:
    """Write the document, or check it."""
    parser = argparse.ArgumentParser(prog="python -m streams.asyncapi", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if it has drifted")
    wanted = document()
    if not parser.parse_args(arguments).check:
        DOCUMENT.write_text(wanted, encoding="utf-8")
        return 0
    if DOCUMENT.exists() and DOCUMENT.read_text(encoding="utf-8") == wanted:
        return 0
    sys.stderr.write("deploy/asyncapi.yaml has drifted. Run `python -m streams.asyncapi`.\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
