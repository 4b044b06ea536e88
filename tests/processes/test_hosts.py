"""Peers on hosts of their own (network namespaces on a bridge), found by multicast, and what happens to cables."""

import time
from collections.abc import Callable, Iterator

import pytest

import scatterzmq
from tests.processes.cluster import NAP, TIMEOUT_S, RealPeer, chain
from tests.processes.lan import Lan, lan

TASKS = 400
ONE_VIEW_S = 10.0


class Hosts:
    """A peer on each host."""

    def __init__(self, network: Lan) -> None:
        self.lan = network
        self.peers: dict[int, RealPeer] = {}

    def start(self, number: int) -> RealPeer:
        args = ["--bind", self.lan.addresses[number], "--insecure-lan", "--allow", NAP, "--name", f"host{number}"]
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


def everybody(hosts: Hosts, *numbers: int) -> bool:
    """Whether each of these peers holds just these to be alive."""
    wanted = {f"host{number}": "alive" for number in numbers}
    return all(hosts.view(number) == wanted for number in numbers)


def work(client: "scatterzmq.Client", break_it: Callable[[], None]) -> None:
    """Tasks with an accident when a third is through; every one must end with the right result."""
    ns = client.load_graph(chain(NAP, {"nap_ms": 4.0}))
    tasks = {client.enqueue_task(ns, {"value": number}): number for number in range(TASKS)}
    client.flush(timeout=TIMEOUT_S)
    ended = {}
    for task, response in client.wait_for(list(tasks), timeout=TIMEOUT_S):
        response.ok()
        assert response.result is not None, response.status
        ended[task] = int(response.result["value"])
        if len(ended) == TASKS // 3:
            break_it()
    assert ended == {task: number + 1 for task, number in tasks.items()}


def test_peers_on_three_hosts_find_each_other_by_multicast(hosts: Callable[[int], Hosts]) -> None:
    three = hosts(3)
    wait_until(lambda: everybody(three, 0, 1, 2), 30.0, "all know all")
    with three.connect(2) as client:
        work(client, lambda: None)


def test_a_host_whose_cable_is_pulled_loses_nothing_and_comes_back(hosts: Callable[[int], Hosts]) -> None:
    three = hosts(3)
    wait_until(lambda: everybody(three, 0, 1, 2), 30.0, "all know all")
    with three.connect(0) as client:
        work(client, lambda: three.lan.cut(1))
        wait_until(lambda: everybody(three, 0, 2), 20.0, "the others know that it is gone")
        three.lan.mend(1)
        wait_until(lambda: everybody(three, 0, 1, 2), ONE_VIEW_S, "it is back")
        work(client, lambda: None)


def test_two_hosts_that_cannot_hear_each_other_one_way(hosts: Callable[[int], Hosts]) -> None:
    three = hosts(3)
    wait_until(lambda: everybody(three, 0, 1, 2), 30.0, "all know all")
    with three.connect(0) as client:
        work(client, lambda: three.lan.block(0, 1))
        three.lan.unblock(0, 1)
        wait_until(lambda: everybody(three, 0, 1, 2), ONE_VIEW_S, "all know all again")
        work(client, lambda: None)


def test_two_halves_work_on_and_become_one_again(hosts: Callable[[int], Hosts]) -> None:
    four = hosts(4)
    wait_until(lambda: everybody(four, 0, 1, 2, 3), 30.0, "all know all")
    across = [(one, other) for one in (0, 1) for other in (2, 3)]

    def split() -> None:
        for one, other in across:
            four.lan.block(one, other)
            four.lan.block(other, one)

    with four.connect(0) as client, four.connect(2) as other_client:
        work(client, split)
        work(other_client, lambda: None)
        wait_until(lambda: everybody(four, 0, 1) and everybody(four, 2, 3), 20.0, "each half knows itself")
        work(client, lambda: None)
        for one, other in across:
            four.lan.unblock(one, other)
            four.lan.unblock(other, one)
        wait_until(lambda: everybody(four, 0, 1, 2, 3), ONE_VIEW_S, "one view")
        work(other_client, lambda: None)
