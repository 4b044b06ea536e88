"""Real peers for real accidents. A cluster is shared by the tests of a file: starting one takes seconds."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import scatterzmq
from tests.processes.cluster import RealCluster, real_cluster

FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of these take seconds each, so they are a suite of their own."""
    for item in items:
        if item.path.is_relative_to(FOLDER):
            item.add_marker("processes")


Connect = Callable[..., "scatterzmq.Client"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RealCluster]:
    """Three peers. Whoever breaks one adds another."""
    with real_cluster(3, "--executors", "1") as cluster:
        yield cluster


@pytest.fixture
def connect() -> Iterator[Connect]:
    """`scatterzmq.connect`, closed in the end."""
    clients: list[scatterzmq.Client] = []

    def connected(*args: Any, **keys: Any) -> "scatterzmq.Client":
        client = scatterzmq.connect(*args, **keys)
        clients.append(client)
        return client

    yield connected
    for client in clients:
        client.close()


@pytest.fixture
def diary(tmp_path: Path) -> Path:
    """Where nodes write down what they begin."""
    return tmp_path / "diary"
