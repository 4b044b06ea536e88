"""Real peers for real accidents. A cluster is shared by the tests of a file: starting one takes seconds."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import scatterzmq
from tests.processes import lan
from tests.processes.cluster import RealCluster, real_cluster
from tests.processes.hosts import FOUND_S, Hosts, are_alone, wait_until

FOLDER = Path(__file__).parent
HOSTS = 4


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


@pytest.fixture(scope="module")
def network() -> Iterator[lan.Lan]:
    """Hosts on a network of their own. What needs it runs where there are namespaces only."""
    with lan.lan(HOSTS) as network:
        yield network


@pytest.fixture(scope="module")
def hosts_in_touch(network: lan.Lan) -> Iterator[Hosts]:
    hosts = Hosts(network)
    try:
        for number in range(HOSTS):
            hosts.peers[number] = hosts.start(number)
        yield hosts
    finally:
        hosts.close()


@pytest.fixture
def hosts(hosts_in_touch: Hosts) -> Iterator[Hosts]:
    """All of them know all of them, and have an executor."""
    wait_until(lambda: are_alone(hosts_in_touch, *range(HOSTS)), FOUND_S, "all know all")
    for peer in hosts_in_touch.peers.values():
        wait_until(lambda peer=peer: peer.has_said("tally.executor.start"), FOUND_S, "an executor")  # type: ignore[misc]
    try:
        yield hosts_in_touch
    finally:
        hosts_in_touch.lan.mend()


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
