"""Fixtures of the tests of Grafana."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from grafana_contract import DOCUMENTS, Contract
from grafana_double import GrafanaDouble

from sinks.grafana.client import GrafanaClient

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def contract() -> Contract:
    """What Grafana's own documents allow."""
    if not all(path.exists() for path in DOCUMENTS):
        pytest.skip("no ../shared/grafana: calls are NOT checked against Grafana's own documents")
    return Contract()


@pytest.fixture
def grafana(contract: Contract) -> Iterator[GrafanaDouble]:
    """A server that refuses what the documents do not allow."""
    with GrafanaDouble(contract) as server:
        yield server


@pytest.fixture
def misbehaving() -> Iterator[GrafanaDouble]:
    """A server that takes whatever comes, to be told how to misbehave."""
    with GrafanaDouble() as server:
        yield server


@pytest.fixture
def client(misbehaving: GrafanaDouble) -> Iterator[GrafanaClient]:
    """A client of that server."""
    made = GrafanaClient(misbehaving.url, "token", read_timeout_s=0.5)
    yield made
    made.close()


@pytest.fixture
def live_grafana() -> str:
    """The address of a live server, if one is given."""
    url = os.environ.get("MODELWARDEN_GRAFANA_URL")
    if not url or not os.environ.get("MODELWARDEN_GRAFANA_TOKEN"):
        pytest.skip("no MODELWARDEN_GRAFANA_URL and _TOKEN: nothing is tried on a live Grafana")
    return url
