"""Fixtures that several rooms share."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from streams.localkafka import LocalKafka, LocalKafkaError

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["grafana_fixtures"]

# How long an example takes says how busy the machine is; benchmarks are in tests/bench.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the address of a real broker: the one in MODELWARDEN_KAFKA, or a node of our own."""
    given = os.environ.get("MODELWARDEN_KAFKA")
    if given:
        yield given
        return
    missing = [program for program in ("java", "mvn") if shutil.which(program) is None]
    if missing and not os.environ.get("CI"):
        pytest.skip(f"no {' and no '.join(missing)} on the PATH: no real Kafka (or set MODELWARDEN_KAFKA)")
    node = LocalKafka(tmp_path_factory.mktemp("kafka"), tell=print)
    try:
        address = node.start()
    except LocalKafkaError as error:
        pytest.fail(str(error))
    yield address
    node.stop()


@pytest.fixture(scope="session")
def promtool() -> str:
    """The path of promtool, from the Debian package prometheus."""
    return _program("promtool", "prometheus")


@pytest.fixture(scope="session")
def amtool() -> str:
    """The path of amtool, from the Debian package prometheus-alertmanager."""
    return _program("amtool", "prometheus-alertmanager")


def _program(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        missing = f"no {name} on the PATH: install Debian's {package} (`make packages`)"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return found
