"""Peers on hosts of their own (network namespaces on a bridge), found by multicast, and what happens between them.

One cluster for all of it. Whom a peer has seen come and go lately it does not trust at once (core/member.py), so each
test that cuts something cuts it between others; test_cables.py has a cluster of its own.
"""

import time
from typing import Any

import pytest

import scatterzmq
from scatterzmq.errors import ClusterError
from scatterzmq.settings import TimingSettings
from tests.processes.bare import counters, view
from tests.processes.cluster import TIMEOUT_S, RealPeer, chain
from tests.processes.conftest import HOSTS
from tests.processes.hosts import BEGUN, FOUND_S, LONG_NAP_MS, NOTICED_S, ONE_VIEW_S, Hosts, Job, are_alone, wait_until

DEAD_S = TimingSettings().dead_s
FOREIGN = "foreign"


def test_hosts_find_each_other_by_multicast_alone(hosts: Hosts) -> None:
    """They were told of nobody, and each does a part of the work."""
    assert all("--join" not in peer.args for peer in hosts.peers.values())
    with hosts.connect(2, 2) as client:
        Job(client).finish()


@pytest.mark.parametrize(("source", "target"), [(0, 1), (3, 2)])
def test_two_hosts_that_cannot_hear_each_other_one_way(hosts: Hosts, source: int, target: int) -> None:
    """For longer than it takes to be called dead, with tasks of both on their way the whole time."""
    with hosts.connect(source, source) as client, hosts.connect(target, target) as other:
        jobs = [Job(client, first=0, nap_ms=LONG_NAP_MS), Job(other, first=1000, nap_ms=LONG_NAP_MS)]
        for job in jobs:
            job.read(BEGUN)
        hosts.lan.block(source, target)
        assert all(hosts.under_way(home) for home in (source, target)), "nothing was under way"
        began_s = time.monotonic()
        wait_until(lambda: hosts.view(target).get(hosts.lan.names[source]) != "alive", NOTICED_S, "it is missed")
        while time.monotonic() < began_s + 2 * DEAD_S:
            Job(client, first=2000).finish()
            Job(other, first=3000).finish()
        jobs.append(Job(client, first=4000))
        hosts.lan.mend()
        wait_until(lambda: are_alone(hosts, *range(HOSTS)), ONE_VIEW_S, "all know all again")
        for job in jobs:
            job.finish()


def test_two_halves_work_on_and_become_one_again(hosts: Hosts) -> None:
    """Each has a client with tasks under way when it comes to be, takes new ones, and has ends that nobody has read
    when it is over.
    """
    halves = (0, 1), (2, 3)
    with hosts.connect(0, 0) as one, hosts.connect(2, 2) as other:
        jobs = [Job(one, first=0, nap_ms=LONG_NAP_MS), Job(other, first=1000, nap_ms=LONG_NAP_MS)]
        for job in jobs:
            job.read(BEGUN)
        for source in halves[0]:
            for target in halves[1]:
                hosts.lan.block(source, target)
                hosts.lan.block(target, source)
        assert all(hosts.under_way(home) for home in (0, 2)), "nothing was under way"
        wait_until(lambda: all(are_alone(hosts, *half) for half in halves), NOTICED_S, "each half knows itself")
        jobs += [Job(one, first=2000), Job(other, first=3000)]
        for job in jobs:
            job.read(BEGUN)
        hosts.lan.mend()
        wait_until(lambda: are_alone(hosts, *range(HOSTS)), ONE_VIEW_S, "one view")
        for job in jobs:
            job.finish()
        Job(other, first=4000).finish()


def adding(number: int) -> dict[str, Any]:
    args = {"op": "add", "const": number, "input": ["long", []]}
    return chain("constant_op", args, ns="shared")


def outcomes(client: "scatterzmq.Client", number: int, tasks: int) -> list[int]:
    """What comes of so many tasks that are to add this number."""
    ns = client.load_graph(adding(number))
    futures = [client.submit(ns, value=at) for at in range(tasks)]
    return [int(future.result(TIMEOUT_S)["value"]) for future in futures]


def test_two_clusters_on_one_network_never_mix(hosts: Hosts) -> None:
    """Found by multicast on the same cable and on the same hosts, with a namespace of the same name. One of the foreign
    peers is told to join a peer of ours, too: it is turned away there, and counted.
    """
    inside, ours = hosts.lan.inside, [peer.address for peer in hosts.peers.values()]
    aliens: list[RealPeer] = []

    def finished(addresses: list[str]) -> int:
        return sum(inside(0, lambda at=at: counters(at))["finished"] for at in addresses)  # type: ignore[misc]

    try:
        for number, args in ((1, ()), (2, ("--join", ours[0]))):
            words = ["--cluster", FOREIGN, "--name", f"alien{number}", "--port", "0", *args]
            aliens.append(hosts.start(number, *words))
        theirs = [alien.address for alien in aliens]
        wanted = {"alien1": "alive", "alien2": "alive"}
        for at in theirs:
            wait_until(lambda at=at: inside(0, lambda: view(at)) == wanted, FOUND_S, "they find each other")  # type: ignore[misc]
        before = finished(ours)
        with (
            inside(0, lambda: scatterzmq.connect(timeout_s=TIMEOUT_S)) as client,
            inside(0, lambda: scatterzmq.connect(cluster=FOREIGN, timeout_s=TIMEOUT_S)) as their_client,
        ):
            assert outcomes(client, 1, 50) == [at + 1 for at in range(50)]
            assert outcomes(their_client, 1000, 70) == [at + 1000 for at in range(70)]
        assert (finished(ours) - before, finished(theirs)) == (50, 70)
        with pytest.raises(ClusterError, match=f"this is cluster '{FOREIGN}'"):
            inside(0, lambda: scatterzmq.connect(theirs[0], cluster="default"))
        assert all(set(hosts.view(number)) <= set(hosts.lan.names) for number in range(HOSTS))
        wait_until(lambda: hosts.peers[0].has_said("warning.peer.refused"), TIMEOUT_S, "one of theirs is turned away")
        refused = [inside(0, lambda at=at: counters(at))["peers_refused"] for at in (*ours, *theirs)]  # type: ignore[misc]
        assert refused[0] > 0
        assert refused[1:] == [0] * 5, "multicast has told nobody of the others"
    finally:
        for alien in aliens:
            alien.close()
