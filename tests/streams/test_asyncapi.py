"""The AsyncAPI document is what the code says, and hangs together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sinks.schemas import RECORDS, record_schema
from streams.asyncapi import CHANNELS, DOCUMENT, build, main
from streams.topics import TOPICS

if TYPE_CHECKING:
    from collections.abc import Iterator


def references(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from references(value)


def test_it_has_not_drifted() -> None:
    assert main(["--check"]) == 0


def test_every_topic_and_every_record_is_in_it() -> None:
    assert set(CHANNELS) == {topic.name for topic in TOPICS}
    told = {record for channel in CHANNELS.values() for record in channel.records}
    assert told >= set(RECORDS) - {"notice", "policy", "rule"}, "a record crosses some topic"
    for name, channel in CHANNELS.items():
        assert channel.writers, f"nobody writes {name}"
        assert channel.readers, f"nobody reads {name}"


def test_what_it_points_at_is_there() -> None:
    document = yaml.safe_load(DOCUMENT.read_text(encoding="utf-8"))
    assert document == build()
    for reference in set(references(document)):
        if reference.startswith("#/"):
            place = document
            for part in reference[2:].split("/"):
                place = place[part]
        else:
            path = DOCUMENT.parent / Path(reference)
            name = path.name.removesuffix(".v1.json")
            assert path.exists(), reference
            assert record_schema(name)["$id"] == f"urn:modelwarden:{name}:v1"
