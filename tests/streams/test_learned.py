"""What workers learn is shared over the topic, merged by a person, and judges keys of all partitions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner
from worker_deployment import Deployment, deployed

from detectors.engine import Engine, EngineSettings
from detectors.merging import dump_to_merge
from detectors.reference import ModelReference
from sinks.serving.event import encode_event
from streams.cli import main
from streams.learned import read_shared
from streams.pipeline import load_references
from streams.samples import load_references as load_shipped
from streams.samples import load_sample
from streams.topics import create_topics
from streams.traces import arrival_order

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.kafka

PARTITIONS = 2
MOST_BYTES = 1_000_000
"""Kafka's own limit on a message is a little above."""


@pytest.fixture
def deployment(kafka_broker: str, tmp_path: Path) -> Iterator[Deployment]:
    with deployed(kafka_broker, tmp_path) as made:
        create_topics(kafka_broker, prefix=made.prefix, partitions=PARTITIONS)
        yield made


def call(deployment: Deployment, *words: object) -> Any:
    environ = {name: deployment.environ[name] for name in ("MODELWARDEN_KAFKA", "MODELWARDEN_TOPIC_PREFIX")}
    return CliRunner().invoke(main, ["references", *map(str, words)], env=environ)


def test_what_two_partitions_learned_is_merged_and_finds_an_attack(
    deployment: Deployment, tmp_path: Path
) -> None:
    customers = [t for t in load_sample() if t.attack is None and t.victim == "mnist"]
    encoded = [[encode_event(event) for event in trace.events()] for trace in customers]
    for trace, row in zip(*arrival_order(customers), strict=True):
        key = customers[trace].key_reference.encode()
        deployment.bus.send(f"{deployment.prefix}events", encoded[trace][row], key=key)
    deployment.bus.flush()
    worker = deployment.start_real()
    topic = f"{deployment.prefix}reference"
    deployment.wait(lambda: len(read_shared(deployment.bus, topic)[0]) == PARTITIONS)
    worker.terminate()
    assert worker.wait(40) == 0

    listed = json.loads(call(deployment, "list", "-o", "json").stdout)
    assert [(row["model"], row["partition"]) for row in listed] == [("mnist", 0), ("mnist", 1)]
    merged = call(deployment, "merge", tmp_path / "references", "-o", "json")
    assert json.loads(merged.stdout)[0]["keys"] == sum(row["keys"] for row in listed) > 40
    reference = load_references(tmp_path / "references")["mnist"]
    attack = next(t for t in load_sample() if t.attack == "uniform" and t.victim == "mnist")
    alerts = Engine(EngineSettings(), {"mnist": reference}).process(attack.batch())
    assert alerts
    assert alerts[0].query_count <= 20

    assert call(deployment, "merge", tmp_path / "references").exit_code == 1, "it is there already"
    assert call(deployment, "merge", tmp_path / "references", "--yes").exit_code == 0


def test_misuse_is_refused_and_a_damaged_record_left_out(deployment: Deployment, tmp_path: Path) -> None:
    nothing = call(deployment, "merge", tmp_path)
    assert nothing.exit_code == 1
    assert "no worker has learned a reference yet" in nothing.stderr
    whole = dump_to_merge(load_shipped()["adult"])
    for key, value in ((b'["adult",0]', whole), (b'["adult",1]', whole[:-9]), (b'["adult",2]', b"x")):
        deployment.bus.send(f"{deployment.prefix}reference", value, key=key)
    deployment.bus.flush()
    listed = call(deployment, "list", "-o", "json")
    assert [row["partition"] for row in json.loads(listed.stdout)] == [0]
    assert listed.stderr.count("left out") == 2
    unknown = call(deployment, "merge", tmp_path, "--model", "minst")
    assert unknown.exit_code == 1
    assert "Learned: adult" in unknown.stderr
    assert not list(tmp_path.glob("*.reference"))


@pytest.mark.parametrize("model", ["adult", "mnist"])
def test_a_shared_reference_fits_into_a_message_and_keeps_what_merging_needs(model: str) -> None:
    whole = load_shipped()[model]
    shared = dump_to_merge(whole)
    assert len(shared) < MOST_BYTES
    read = ModelReference.load(shared)
    assert read.lesson is not None
    assert whole.lesson is not None
    np.testing.assert_array_equal(read.lesson.z_peak, whole.lesson.z_peak)
    np.testing.assert_array_equal(read.key.mean, whole.key.mean)
