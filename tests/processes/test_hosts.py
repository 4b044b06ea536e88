"""Peers on hosts of their own (network namespaces on a bridge), found by multicast, and what happens to cables."""

import time
from collections.abc import Callable, Iterator

import pytest

import scatterzmq
from tests.processes.cluster import TIMEOUT_S, RealPeer
from tests.processes.lan import Lan, lan

TASKS = 400
ONE_VIEW_S = 10.0


class Hosts:
    """A peer on each host."""

    def __init__(self, network: Lan) -> None:
        self.lan = network
        self.peers: dict[int, RealPeer] = {}

    def start(self, number: int) -> RealPeer:
        args = ["--bind", self.lan.addresses[number], "--insecure-lan", "--allow", "nodes", "--name", f"host{number}"]
        self.peers[number] = RealPeer(args, namespace=self.lan.hosts[number])
        return self.peers[number]

    def connect(self, number: int) -> "scatterzmq.Client":
        """A client on a host, of the peer there."""
        return self.lan.inside(number, lambda: scatterzmq.connect(self.peers[number].address, timeout_s=TIMEOUT_S))

    def view(self, number: int) -> dict[str, str]:
        """Who a peer holds to be there: name -> status."""
        with self.connect(number) as client:
            return {member.name: member.status for member in client.peers()}

    def close(self) -> None:
        for peer in self.peers.values():
            peer.close()


@pytest.fixture
def hosts() -> Iterator[Callable[[int], Hosts]]:
    made: list[Hosts] = []
    networks = []

    def build(count: int) -> Hosts:
        network = lan(count)
        networks.append(network)
        hosts = Hosts(network.__enter__())
        made.append(hosts)
        for number in range(count):
            hosts.start(number)
        return hosts

    yield build
    for hosts_ in made:
        hosts_.close()
    for network in networks:
        network.__exit__(None, None, None)


def wait_until(holds: Callable[[], bool], limit_s: float, what: str) -> float:
    """How long it took."""
    began_s = time.monotonic()
    pause = _Pause()
    while not holds():
        if time.monotonic() > began_s + limit_s:
            raise AssertionError(f"not within {limit_s} s: {what}")
        pause.wait()
    return time.monotonic() - began_s


class _Pause:
    """Between two looks at something that nobody tells of."""

    def wait(self) -> None:
        time.sleep(0.05)
